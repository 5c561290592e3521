"""Lock a workdir, so that two runs cannot share it: an flock on `WORKDIR/lock`, whose text names the holder.

The system releases the lock however its holder ends, so a file that was left behind locks nobody out.
"""

import datetime
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bridge_jax.config import as_json

FILE = "lock"


class WorkdirBusyError(RuntimeError):
    """Another run holds the workdir. The text names it."""


def take(folder: Path, flag: str = "--workdir") -> int:
    """Take the lock and return its descriptor; closing that releases the lock. Makes the folder if it does not exist.

    `flag` is the one that named the folder. Raises WorkdirBusyError, naming the holder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(folder, os.O_RDWR | os.O_CREAT, flag)
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since}).encode(), 0)
    return descriptor


def refuse_if_taken(folder: Path) -> None:
    """Raise WorkdirBusyError if another process holds the lock. Writes nothing."""
    if (folder / FILE).exists():
        os.close(_lock(folder, os.O_RDONLY, "--workdir"))


@contextmanager
def hold(folder: Path, flag: str = "--workdir") -> Iterator[None]:
    """Hold the lock for the length of a `with` block. Raises WorkdirBusyError."""
    descriptor = take(folder, flag)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path, flags: int, flag: str) -> int:
    descriptor = os.open(folder / FILE, flags, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        text = os.pread(descriptor, 1000, 0).decode(errors="replace")
        os.close(descriptor)
        who = "another process"
        if text.endswith("}"):  # the holder may not have written it yet
            holder = as_json.loads(text)
            who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        raise WorkdirBusyError(
            f"{flag} {str(folder)!r} is in use by {who}: wait for it or end it, or give another {flag}"
        ) from error
    return descriptor
