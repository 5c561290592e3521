"""Run one function over many arguments in processes, in order and within a bounded amount of memory.

    for result in mapped(count_words, ["a.txt", "b.txt"], workers=2): ...

`function` is one of a module, and its arguments and results can be sent to other processes, or over a cluster
(`cluster`). They travel between a command and its own processes only; no file is read this way.
"""

import collections
import gc
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import NamedTuple, TypeVar

from bridge_jax.config import ConfigError
from bridge_jax.data import cluster

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


class Workers(NamedTuple):
    """Who does the work: so many processes of this machine, or the nodes of a Ray cluster."""

    processes: int = 1
    ray_address: str = ""

    def mapped(
        self, function: Callable[[_Argument], _Result], arguments: Iterable[_Argument], total: int
    ) -> Generator[_Result, None, None]:
        """Yield the result of each of the `total` arguments, in order. Raises ConfigError, as `mapped` does."""
        if self.ray_address:
            return cluster.mapped(function, arguments, self.ray_address)
        return mapped(function, arguments, min(self.processes, total))


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def mapped(
    function: Callable[[_Argument], _Result], arguments: Iterable[_Argument], workers: int
) -> Generator[_Result, None, None]:
    """Yield the result of each argument, in order. With one worker or none, this process does it.

    An error of `function` is raised here. Raises ConfigError where a process was killed. The processes end with this
    one, even if it is killed.
    """
    if workers <= 1:
        yield from map(function, arguments)
        return
    context = multiprocessing.get_context("forkserver")  # a fork of this process would copy its threads' locks
    context.set_forkserver_preload([function.__module__])  # then a process starts in milliseconds
    with ProcessPoolExecutor(workers, context, _begin) as pool:
        coming = (pool.submit(function, argument) for argument in arguments)
        try:
            pending = collections.deque(itertools.islice(coming, workers * cluster.LOOK_AHEAD))
            while pending:
                yield pending.popleft().result()
                pending.extend(itertools.islice(coming, 1))
        except BrokenProcessPool as error:
            raise ConfigError(
                "a process of the preparation was killed, as a machine does that runs out of memory: give the same "
                "command again to go on, with a smaller --num_workers"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin() -> None:
    """Begin a process: leave Ctrl-C to the parent, and end when it has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.enable()  # `tools` turns it off until a command has begun
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a process of a pool has one"
    wait([parent.sentinel])
    os._exit(1)
