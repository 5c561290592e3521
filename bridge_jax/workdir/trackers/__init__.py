"""One tracker a file; `bridge_jax/workdir/tracking.py` says what a file defines."""
