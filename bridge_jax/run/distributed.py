"""The start of a run of several processes: they meet, compare what they are about to run, and start jax.distributed.

jax.distributed itself ends a process with a C++ stack when others do not come, and says nothing of which. So the
processes first meet on the coordinator's port by plain TCP: each sends its number, host, config and code; process 0
waits for all of them, compares, and answers all alike. Whatever is wrong is one line on every host and exit code 2.
"""

import hashlib
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
from jax._src.clusters import ClusterEnv  # what jax.distributed.initialize itself asks; there is no public way

import bridge_jax
from bridge_jax.config import Config, ConfigError
from bridge_jax.config.as_json import as_dict, differences

_RETRY_SECS = 0.2
_ANSWER_SECS = 10.0  # beyond the time-out, for process 0 to say who is missing


def start(cfg: Config, coordinator_address: str, num_processes: int, process_id: int, timeout_secs: float) -> None:
    """Start jax.distributed where this is one of several processes: by the flags, or on a TPU slice, GKE or Slurm.

    An empty address and -1 stand for what the environment says. Raises ConfigError when processes are missing after
    `timeout_secs`, or differ in config, code or version of jax.
    """
    given = (coordinator_address != "", num_processes >= 0, process_id >= 0)
    if any(given) and not all(given):
        raise ConfigError(
            f"--coordinator_address is {coordinator_address!r}, --num_processes {num_processes}, --process_id "
            f"{process_id}: set all three, or none on a TPU slice, GKE or Slurm"
        )
    address, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(
        coordinator_address or None,
        None if num_processes < 0 else num_processes,
        None if process_id < 0 else process_id,
        None,
        None,
        round(timeout_secs),
    )
    if address is None or count is None or index is None or count == 1:
        return
    if not 0 <= index < count:
        raise ConfigError(f"--process_id is {index}; expected 0 to {count - 1}")
    meet(address, count, index, timeout_secs, about(cfg))
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, which is for stop.py
    jax.distributed.initialize(address, count, index, devices, initialization_timeout=round(timeout_secs))


def about(cfg: Config) -> dict[str, Any]:
    """Return what has to be the same in all processes."""
    root, digest = Path(bridge_jax.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    config = json.loads(json.dumps(as_dict(cfg)))
    return {"host": socket.gethostname(), "jax": jax.__version__, "code": digest.hexdigest()[:12], "config": config}


def meet(address: str, count: int, index: int, timeout_secs: float, mine: dict[str, Any]) -> None:
    """Return when all processes have met and agree. Raises ConfigError, with the same text in all of them."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        raise ConfigError(f"--coordinator_address is {address!r}; expected HOST:PORT")
    if index == 0:
        said = _wait_for_all(int(port), count, timeout_secs, mine)
    else:
        said = _report(host, int(port), index, timeout_secs, mine)
    if said is not None:
        raise ConfigError(f"{address}: {said}")


def _wait_for_all(port: int, count: int, timeout_secs: float, mine: dict[str, Any]) -> str | None:
    met, deadline = {0: mine}, time.monotonic() + timeout_secs
    with ExitStack() as open_sockets:
        server = open_sockets.enter_context(socket.create_server(("", port), backlog=count))
        peers = []
        while len(met) < count and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                peer = open_sockets.enter_context(server.accept()[0])
                peer.settimeout(max(left, _RETRY_SECS))
                found = json.loads(_line(peer))
            except (TimeoutError, ConnectionError, ValueError):  # nobody, or somebody else who looked in
                continue
            met[found.pop("index")] = found
            peers.append(peer)
        said = _fault(met, count, timeout_secs)
        for peer in peers:
            peer.sendall(json.dumps(said).encode() + b"\n")
    return said


def _report(host: str, port: int, index: int, timeout_secs: float, mine: dict[str, Any]) -> str | None:
    deadline = time.monotonic() + timeout_secs
    while True:
        left = deadline - time.monotonic()
        try:
            with socket.create_connection((host, port), timeout=max(left, _RETRY_SECS)) as peer:
                peer.sendall(json.dumps({"index": index, **mine}).encode() + b"\n")
                peer.settimeout(max(left, 0) + _ANSWER_SECS)
                return json.loads(_line(peer))
        except (OSError, ValueError) as error:  # not up yet; or it went away without an answer
            if left <= 0:
                waited = f"process {index} waited {timeout_secs:g} s for process 0"
                return f"{waited}, which did not answer ({error}); start process 0 there"
            time.sleep(_RETRY_SECS)


def _line(peer: socket.socket) -> str:
    with peer.makefile("r", encoding="utf-8") as lines:
        return lines.readline()


def _fault(met: dict[int, dict[str, Any]], count: int, timeout_secs: float) -> str | None:
    missing = [str(i) for i in range(count) if i not in met]
    if missing:
        here = ", ".join(f"{i} ({met[i]['host']})" for i in sorted(met))
        waited = f"waited {timeout_secs:g} s for {count} processes"
        return f"{waited}; missing: {', '.join(missing)}; present: {here}. Start the missing processes"
    for index in sorted(met):
        for line in _differences(met[0], met[index]):
            differing = f"process {index} ({met[index]['host']}) differs from process 0: {line}"
            return f"{differing}; start all with the same config, code and jax"
    return None


def _differences(first: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for what in ("jax", "code"):
        if first[what] != other[what]:
            yield f"{what} {first[what]} -> {other[what]}"
    yield from (f"config.{line}" for line in differences(first["config"], other["config"]))
