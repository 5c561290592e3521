"""A preparation on a Ray cluster of two nodes, each a `ray start` of its own: the bytes are those of one process."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bridge_jax.config import ConfigError
from bridge_jax.data import cluster
from tests.data.test_tar_preparation import ROOT, contents, descendants, tar, whole
from tools import prepare_data

pytest.importorskip("ray", reason="pip install 'bridge_jax[ray]'")
RAY = Path(sys.executable).with_name("ray")
PORT = 26379
ADDRESS = f"127.0.0.1:{PORT}"
QUIET = {
    "PYTHONPATH": str(ROOT),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_period_ms": "500",  # a dead node is noticed soon
    "RAY_health_check_failure_threshold": "2",
}


class Node:
    """A node of one core, which shares nothing with others but the machine."""

    def __init__(self, *words, log):
        command = [RAY, "start", *words, "--num-cpus=1", "--object-store-memory=100000000", "--block"]
        with log.open("a") as told:
            self.process = subprocess.Popen(command, env=os.environ | QUIET, stdout=told, stderr=told)

    def kill(self):
        """Kill all of its processes, as a machine that loses power."""
        for pid in (*descendants(self.process.pid), self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def cores():
    """Return the cores of the cluster, 0 where there is none yet."""
    try:
        ray = cluster.join(ADDRESS)
    except ConfigError:
        return 0
    found = cluster.cores(ray)
    ray.shutdown()
    return found


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Return the nodes of a cluster. The last one may be taken away."""
    log, started = tmp_path_factory.mktemp("ray") / "log", []
    sockets = f"--temp-dir=/tmp/ray_{os.getpid()}"  # their paths must be short
    ways = [("--head", f"--port={PORT}", "--include-dashboard=false", sockets), (f"--address={ADDRESS}",)]
    ends = time.monotonic() + 60
    try:
        with pytest.MonkeyPatch.context() as patch:  # this process joins too
            for name, value in QUIET.items():
                patch.setenv(name, value)
            for number, words in enumerate(ways, 1):
                started.append(Node(*words, log=log))
                while cores() < number:
                    assert time.monotonic() < ends, log.read_text()
            yield started
    finally:
        for node in reversed(started):
            node.kill()
        shutil.rmtree(f"/tmp/ray_{os.getpid()}")


def test_results_come_in_order_and_an_error_is_the_functions(nodes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names are relative to the folder of the command
    sizes = [*range(20, 0, -1)]
    for size in sizes:
        Path(f"{size}.txt").write_bytes(b" " * size)
    names = [f"{size}.txt" for size in sizes]
    assert list(cluster.mapped(os.path.getsize, names, ADDRESS)) == sizes
    with pytest.raises(FileNotFoundError, match=r"absent\.txt"):
        list(cluster.mapped(os.path.getsize, [*names, "absent.txt"], ADDRESS))


def test_a_cluster_that_loses_a_node_leaves_the_same_bytes(nodes, tmp_path):
    raw = tmp_path / "raw"
    for number in range(12):
        tar(raw, f"{number:02}.tar", range(40 * number, 40 * number + 40))
    prepare_data.prepare("folder", str(tmp_path / "alone"), raw_dir=str(raw))
    out, told = tmp_path / "out", tmp_path / "stderr"
    words = ["--dataset=folder", f"--raw_dir={raw}", f"--data_dir={out}", f"--ray_address={ADDRESS}"]
    with told.open("w") as stderr:
        command = subprocess.Popen([sys.executable, "-m", "tools.prepare_data", *words], cwd=ROOT, stderr=stderr)
    while len(whole(out)) < 3:
        assert command.poll() is None, told.read_text()
        time.sleep(0.002)
    before = whole(out)
    nodes.pop().kill()
    assert command.wait(timeout=120) == 0, told.read_text()
    assert before.items() <= whole(out).items(), "a whole shard was written again"
    assert contents(out) == contents(tmp_path / "alone")


def test_no_cluster_is_one_line(tmp_path):
    raw = tar(tmp_path / "raw", "0.tar", range(9))
    with pytest.raises(ConfigError, match=r"--ray_address: no cluster of this Ray and Python at '127.0.0.1:1' "):
        prepare_data.prepare("folder", str(tmp_path / "out"), raw_dir=str(raw), ray_address="127.0.0.1:1")


def test_without_ray_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'bridge_jax\[ray\]'"):
        list(cluster.mapped(os.path.getsize, ["a"], ADDRESS))


def test_a_cluster_is_for_tars(tmp_path):
    with pytest.raises(ConfigError, match="--ray_address: a cluster prepares tars"):
        prepare_data.prepare("shapes", str(tmp_path), num_train=2, seed=0, ray_address=ADDRESS)


def test_a_node_without_the_folder_says_so(tmp_path):
    with pytest.raises(ConfigError, match="has no folder"):
        cluster._run(str(tmp_path / "absent"), os.path.getsize, "a")
