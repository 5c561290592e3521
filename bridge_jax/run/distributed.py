"""Start a run of several processes: they meet, compare config, code and data, and start jax.distributed.

If processes are missing, jax.distributed ends the others with a C++ stack and does not say which are missing. So the
processes first meet on the coordinator's port by plain TCP. Each sends its index, host, config, code and the hash of
its records; process 0 waits for all, compares, and sends all the same answer. Any fault is one line on every host and
exit code 2.
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
from jax._src.clusters import ClusterEnv  # jax.distributed.initialize uses it; there is no public API

import bridge_jax
from bridge_jax.config import Config, ConfigError, as_json
from bridge_jax.config.as_json import as_dict, differences
from bridge_jax.data.records import training_fingerprint

_RETRY_SECS = 0.2
_ANSWER_SECS = 10.0  # after the time-out, for process 0 to answer which are missing


def start(cfg: Config, coordinator_address: str, num_processes: int, process_id: int, timeout_secs: float) -> None:
    """Start jax.distributed if this is one of several processes: by the flags, or on a TPU slice, GKE or Slurm.

    An empty address and -1 mean the values of the environment. Raises ConfigError if processes are missing after
    `timeout_secs`, or differ in config, code, data or version of jax.
    """
    explicit = (coordinator_address != "", num_processes >= 0, process_id >= 0)
    if any(explicit) and not all(explicit):
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
    jax.config.update("jax_enable_preemption_service", False)  # it would catch SIGTERM, which stop.py handles
    jax.distributed.initialize(address, count, index, devices, initialization_timeout=round(timeout_secs))


def about(cfg: Config) -> dict[str, Any]:
    """Return this process's host, and the config, code, data and version of jax that all processes must share."""
    config = as_json.loads(json.dumps(as_dict(cfg)))
    try:
        data = training_fingerprint(cfg.data)
    except ConfigError as error:
        data = f"missing ({error})"
    return {"host": socket.gethostname(), "jax": jax.__version__, "code": code(), "data": data, "config": config}


def code() -> str:
    """Return a hash of all that the package's own files say."""
    root, digest = Path(bridge_jax.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def meet(address: str, count: int, index: int, timeout_secs: float, mine: dict[str, Any]) -> None:
    """Return when all processes have met and agree. Raises ConfigError, with the same text in all of them."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        raise ConfigError(f"--coordinator_address is {address!r}; expected HOST:PORT")
    if index == 0:
        fault = _wait_for_all(int(port), count, timeout_secs, mine)
    else:
        fault = _report(host, int(port), index, timeout_secs, mine)
    if fault is not None:
        raise ConfigError(f"{address}: {fault}")


def _wait_for_all(port: int, count: int, timeout_secs: float, mine: dict[str, Any]) -> str | None:
    """Run process 0's side of the meeting. Return the fault that was sent to all processes, or None."""
    met, deadline = {0: mine}, time.monotonic() + timeout_secs
    with ExitStack() as open_sockets:
        server = open_sockets.enter_context(socket.create_server(("", port), backlog=count))
        peers = []
        while len(met) < count and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                peer = open_sockets.enter_context(server.accept()[0])
                peer.settimeout(max(left, _RETRY_SECS))
                record = as_json.loads(_line(peer))
            except (TimeoutError, ConnectionError, ValueError):  # no connection, or one from another program
                continue
            met[record.pop("index")] = record
            peers.append(peer)
        fault = _fault(met, count, timeout_secs)
        for peer in peers:
            peer.sendall(json.dumps(fault).encode() + b"\n")
    return fault


def _report(host: str, port: int, index: int, timeout_secs: float, mine: dict[str, Any]) -> str | None:
    """Run another process's side of the meeting. Return the fault that process 0 answered, or None."""
    deadline = time.monotonic() + timeout_secs
    while True:
        left = deadline - time.monotonic()
        try:
            with socket.create_connection((host, port), timeout=max(left, _RETRY_SECS)) as peer:
                peer.sendall(json.dumps({"index": index, **mine}).encode() + b"\n")
                peer.settimeout(max(left, 0) + _ANSWER_SECS)
                return as_json.loads(_line(peer))
        except (OSError, ValueError) as error:  # process 0 is not up yet, or left without an answer
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
            return f"{differing}; start all with the same config, code, data and jax"
    return None


def _differences(first: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for key in ("jax", "code", "data"):
        if first[key] != other[key]:
            yield f"{key} {first[key]} -> {other[key]}"
    yield from (f"config.{line}" for line in differences(first["config"], other["config"]))
