"""The opening of a program that a stranger runs with an exported folder: none of our code, no JAX, no network."""

ALONE = """
import socket, sys
for name in ("bridge_jax", "jax", "jaxlib", "flax", "orbax", "ml_collections"):
    sys.modules[name] = None
def refuse(*arguments):
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
"""
