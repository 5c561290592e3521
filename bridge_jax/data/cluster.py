"""Run one function over many arguments on a Ray cluster, in order: `processes.mapped` for more than one machine.

    for result in mapped(count_words, ["/shared/a.txt", "/shared/b.txt"], "10.0.0.7:6379"): ...

The nodes need this package, and the same files under the same names. A node that dies loses nothing but its time: its
tasks run again on another one.

Ray pickles what travels between the command and its nodes, as `processes` does between processes; no file is read this
way. Whoever reaches the ports of a cluster can run code on it.
"""

import collections
import itertools
import logging
import os
import platform
import socket
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from bridge_jax.config import ConfigError

LOOK_AHEAD = 4  # tasks of each core that are under way or wait for their turn
_TRIES_AGAIN = 3  # of a task whose node or process was killed
_WAIT_SECS = 20.0  # for a node to answer
_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


def mapped(
    function: Callable[[_Argument], _Result], arguments: Iterable[_Argument], address: str
) -> Generator[_Result, None, None]:
    """Yield the result of each argument, in order, as tasks of one core on the cluster at `address`.

    Nodes that come while it runs are used. An error of `function` is raised here. Raises ConfigError where there is no
    cluster, or a task was killed again and again.
    """
    ray = join(address)
    try:
        task = ray.remote(num_cpus=1, max_retries=_TRIES_AGAIN)(_run)
        coming = (task.remote(os.getcwd(), function, argument) for argument in arguments)
        pending: collections.deque[Any] = collections.deque()
        while True:
            room = LOOK_AHEAD * cores(ray) - len(pending)
            pending.extend(itertools.islice(coming, max(room, 0 if pending else 1)))
            if not pending:
                return
            yield ray.get(pending.popleft())
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise ConfigError(
            f"--ray_address: the cluster gave up a task ({_line(error)}): see to its nodes and their memory, and give "
            "the same command again to go on"
        ) from error
    finally:
        ray.shutdown()


def join(address: str) -> Any:
    """Join the cluster at `address` until `shutdown`, and return Ray. Raises ConfigError."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError("--ray_address: Ray is not installed; pip install 'bridge_jax[ray]'") from error
    try:
        if address != "auto":  # Ray would wait for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), _WAIT_SECS).close()
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--ray_address: no cluster of this Ray and Python at {address!r} ({_line(error)}); expected HOST:PORT or "
            "auto, and a cluster as launch/README.md says"
        ) from error
    return ray


def cores(ray: Any) -> int:
    """Return the number of cores that the cluster has now."""
    return int(ray.cluster_resources().get("CPU", 0))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _run(folder: str, function: Callable[[_Argument], _Result], argument: _Argument) -> _Result:
    """Call the function on a node, in the folder of the command: paths may be relative."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise ConfigError(
            f"--ray_address: node {platform.node()} has no folder {folder}; give the command in a folder that all "
            "nodes share"
        ) from error
    return function(argument)
