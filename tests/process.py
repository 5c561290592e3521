"""Run programs of the package as users do, each in a process of its own, without waiting for their libraries.

    done = process.run("tools.evaluate", f"--workdir={workdir}", "--split=val")

Importing libraries takes 3 s of processor time. So each process of the suite has a server (`python -m tests.process`)
that imports them, and forks for every program. The child runs the module as `python -m MODULE` does, up to the
interpreter's own end. It holds none of the package's code before, and JAX starts no thread before its first array.

JAX reads its variables of the environment at its import: they are the server's, but for the compilation cache's folder.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = (
    "grain", "jax.experimental.multihost_utils", "flax.linen", "ml_collections.config_flags", "optax",
    "orbax.checkpoint", "PIL.Image", "rich.progress", "rich.table", "safetensors.numpy", "tensorboardX",
    "tensorflow_datasets", "tokenizers",
)  # fmt: skip
NUMBER = struct.Struct("q")
CACHE = "JAX_COMPILATION_CACHE_DIR"


class Process:
    """A running program, with what tests use of subprocess.Popen. It writes to the files `stdout` and `stderr`."""

    def __init__(self, words: list[str], cwd: Path, env: dict[str, str], stdout: Path, stderr: Path):
        self.args, self.returncode, self.stderr = words, None, stderr
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(_address(_server().args[-1]))
        with open(os.devnull) as nothing, stdout.open("w") as out, stderr.open("w") as err:
            files = [file.fileno() for file in (nothing, out, err)]
            socket.send_fds(self._server, [json.dumps([words, str(cwd), env]).encode()], files)
        self._server.shutdown(socket.SHUT_WR)
        self.pid = self._number()

    def _number(self) -> int:
        return NUMBER.unpack(self._server.recv(NUMBER.size, socket.MSG_WAITALL))[0]

    def poll(self) -> int | None:
        """Return the exit code, or None while the program runs."""
        if self.returncode is None and select.select([self._server], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code. Raises subprocess.TimeoutExpired after so many seconds."""
        if self.returncode is None:
            if not select.select([self._server], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = self._number()
            self._server.close()
        return self.returncode

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    *words: object, stderr: Path, stdout: Path = Path(os.devnull), cwd: Path = ROOT, env: dict[str, str] | None = None
) -> Process:
    """Start `python -m WORDS`."""
    return Process(list(map(str, words)), cwd, dict(os.environ if env is None else env), stdout, stderr)


def run(
    *words: object, cwd: Path = ROOT, env: dict[str, str] | None = None, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run `python -m WORDS` to its end."""
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
        process = start(*words, stderr=stderr, stdout=stdout, cwd=cwd, env=env)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, code, stdout.read_text(), stderr.read_text())


@functools.cache
def _server() -> subprocess.Popen:
    """Start the server of this process, which ends with it."""
    command = [sys.executable, "-m", "tests.process", str(os.getpid())]
    server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdout.read(1), "it ended"
    atexit.register(server.communicate)
    return server


def _address(pid: str) -> str:
    """Return the address of a process's server, which is no file."""
    return f"\0bridge_jax_tests_{pid}"


def serve(tests: str) -> tuple[list, list[int]] | None:
    """Fork for every request. Return the request and its files in each child, and None once the tests have ended.

    `tests` is the process id of the tests.
    """
    listener, ready = socket.socket(socket.AF_UNIX), selectors.DefaultSelector()
    listener.bind(_address(tests))
    listener.listen()
    for source in (listener, sys.stdin):
        ready.register(source, selectors.EVENT_READ)
    os.write(1, b".")
    while True:
        for key, _ in ready.select():
            if key.fileobj is sys.stdin:
                return None
            if key.fileobj is listener:
                client = listener.accept()[0]
                text, files, *_ = socket.recv_fds(client, 1 << 20, 3)
                while more := client.recv(1 << 20):
                    text += more
                if not (pid := os.fork()):
                    return json.loads(text), files
                client.sendall(NUMBER.pack(pid))
                ready.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, client))
                for file in files:
                    os.close(file)
            else:
                ready.unregister(key.fileobj)
                os.close(key.fd)
                pid, client = key.data
                with client, contextlib.suppress(BrokenPipeError):  # where a test failed, nobody waits
                    client.sendall(NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))


def become(words: list[str], cwd: str, env: dict[str, str], files: list[int]) -> None:
    """Turn this process into `python -m WORDS`."""
    for target, file in enumerate(files):
        os.dup2(file, target)
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    importlib.import_module("jax").config.update(CACHE.lower(), env.get(CACHE))
    os.chdir(cwd)
    sys.path[0] = cwd
    sys.argv, sys.orig_argv = ["-m", *words[1:]], [sys.executable, "-m", *words]
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()
    if asked := serve(sys.argv[1]):
        become(*asked[0], asked[1])
