"""Several processes on this machine act as one run: they meet, agree, and get the results of one process."""

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bridge_jax
from bridge_jax import config, paths
from bridge_jax.config import ConfigError
from bridge_jax.run import bad_step, distributed
from bridge_jax.step import sharding
from bridge_jax.step.params import abstract_params
from bridge_jax.workdir.checkpoint import Checkpoints
from tests import process, runs

ROOT = Path(__file__).resolve().parents[2]
MAIN, SLOW = "bridge_jax.main", "tests.drills.child"  # the same, and half a second a batch


def free_address() -> str:
    """Return an address with a port of this machine that is free now."""
    with socket.create_server(("localhost", 0)) as server:
        return f"localhost:{server.getsockname()[1]}"


Start = Callable[..., list[process.Process]]


@pytest.fixture(scope="module")
def start(tiny_flags) -> Start:
    """Start one process of main for each of `flags`, of `count` on `devices` devices each, on the tiny experiment.

    Each process runs the code of its own tree of `trees`.
    """

    def processes(
        workdir: Path,
        flags: list[list[str]],
        *,
        count: int,
        devices: int,
        program: str = MAIN,
        trees: tuple[Path, ...] = (ROOT, ROOT),
    ) -> list[process.Process]:
        compiler = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        environment = os.environ | {"XLA_FLAGS": compiler}
        environment |= {"DRILL_LOG": os.devnull, "DRILL_STALL": "slow"}
        started, address = [], free_address()
        for index, own in enumerate(flags):
            own_names = {flag.split("=")[0] for flag in own}  # a tuple flag that comes twice is one longer tuple
            kept = [flag for flag in tiny_flags if flag.split("=")[0] not in own_names]
            words = [program, *kept, f"--workdir={workdir}", *own]
            if count > 1:
                words += [f"--coordinator_address={address}", f"--num_processes={count}", f"--process_id={index}"]
            stderr = workdir.with_name(f"{index}.stderr")
            started.append(process.start(*words, cwd=trees[index], env=environment, stderr=stderr))
        return started

    return processes


def ends(processes: list[process.Process]) -> list[tuple[int, str]]:
    """Return the exit code and stderr of each process."""
    return [(each.wait(timeout=400), each.stderr.read_text()) for each in processes]


def close(workdir: Path, expected: Path) -> None:
    """Compare the logs and the last parameters of two runs."""
    mine, other = runs.logged(workdir), runs.logged(expected)
    assert mine.keys() == other.keys()
    for key, value in other.items():
        if isinstance(value, float):
            assert mine[key] == pytest.approx(value, rel=1e-5, abs=1e-5), key
    last = Checkpoints(expected, read_only=True).latest()
    one, two = (last_parameters(folder, last) for folder in (workdir, expected))
    for path, value in two.items():
        if re.fullmatch("(vision|text)/.*/key/bias", path):
            continue  # it has no gradient but rounding, which Adam scales up to a whole step
        np.testing.assert_allclose(one[path], value, rtol=1e-5, atol=1e-5, err_msg=path)


def last_parameters(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Return path -> parameter, restored onto this process's one device."""
    saves = Checkpoints(workdir, read_only=True)
    cfg = saves.config(step)
    mesh = sharding.make_mesh(config.Mesh(data=-1, fsdp=1, tensor=1))
    return paths.flatten(saves.restore_params(step, abstract_params(cfg, mesh)))


def stop_at(processes: list[process.Process], workdir: Path, step: int, signum: int) -> list[tuple[int, str]]:
    """Send a signal to the last process once a step is logged. Return exit code and stderr of each process."""
    log = workdir / "metrics.jsonl"
    while not (
        log.exists() and log.read_text().rpartition("\n")[0].rpartition("\n")[2].startswith(f'{{"step": {step},')
    ):
        assert all(each.poll() is None for each in processes), ends(processes)
        time.sleep(0.02)
    processes[-1].send_signal(signum)
    return ends(processes)


FLAGS = ["--config.stage_order=('stabilise',)", "--config.stages.stabilise.losses=('itc','itm')"]
FLAGS += ["--config.evals.retrieval.splits=()", "--config.evals.retrieval.every_steps=100"]
FLAGS += ["--config.checkpoint.every_steps=100", "--config.stages.stabilise.steps=10"]
# At the config's own rate, 1e-3, the last gradients of two meshes are 1.2e-5 apart: ten steps amplify the rounding.
FLAGS += ["--config.stages.stabilise.learning_rate=3e-4"]


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory) -> Path:
    """Return the workdir of a run of one process with two devices."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    ((code, stderr),) = ends(start(workdir, [FLAGS], count=1, devices=2))
    assert code == 0, stderr
    return workdir


def test_two_processes_are_one_run_and_runs_go_on_with_one_then_two_then_one(start, undisturbed, tmp_path):
    """Only one of two processes gets the signal, and both stop."""
    workdir = tmp_path / "run"
    for count, step, signum in ((1, 2, signal.SIGTERM), (2, 5, signal.SIGINT)):
        running = start(workdir, [FLAGS] * count, count=count, devices=1, program=SLOW)
        for code, stderr in stop_at(running, workdir, step, signum):
            assert code == 128 + signum, stderr
            assert re.search(rf"^stopped by {signum.name} after step \d; nothing is lost", stderr, re.M)
        outcome = json.loads((workdir / "outcome.json").read_text())
        assert (outcome["cause"], outcome["exit_code"]) == ("stopped", 128 + signum)
        assert step <= outcome["saved_step"] == outcome["step"] <= step + 3  # to tell the others takes a step or two
    ((code, stderr),) = ends(start(workdir, [FLAGS], count=1, devices=1))
    assert code == 0, stderr
    close(workdir, undisturbed)


def test_a_run_goes_on_on_one_then_eight_then_two_devices(start, undisturbed, tmp_path):
    """The parameters change from copies (`data`) to spread ones (`fsdp`)."""
    workdir = tmp_path / "run"
    for devices, step, mesh in ((1, 2, "data=1"), (8, 5, "fsdp=4")):
        running = start(workdir, [[*FLAGS, f"--config.mesh.{mesh}"]], count=1, devices=devices, program=SLOW)
        ((code, stderr),) = stop_at(running, workdir, step, signal.SIGTERM)
        assert code == 143, stderr
    ((code, stderr),) = ends(start(workdir, [[*FLAGS, "--config.mesh.fsdp=2"]], count=1, devices=2))
    assert code == 0, stderr
    close(workdir, undisturbed)


def test_two_processes_leave_a_bad_step_and_broken_data_behind_together(start, small_shapes, tmp_path):
    """The rate is infinite and one process's records are broken. Both processes learn of both."""
    shutil.copytree(small_shapes, tmp_path / "data")
    shard = next((tmp_path / "data" / "shapes" / "2.3.0").glob("*train*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 8] ^= 8
    shard.write_bytes(content)
    flags = [flag for flag in FLAGS if ".losses=" not in flag]  # only the config's own, the contrastive one
    flags += ["--config.stages.stabilise.learning_rate=1e38", f"--config.data.data_dir={tmp_path / 'data'}"]
    flags += ["--config.bad_steps.action=skip", "--config.bad_steps.budget=1", "--config.data.broken_limit=0.5"]
    workdir = tmp_path / "run"
    for code, stderr in ends(start(workdir, [flags] * 2, count=2, devices=1)):
        assert code == 3, stderr
        assert re.search("^error: step 4 of stage 'stabilise': .* 2 bad steps exceed .*budget, 1: ", stderr, re.M)
    saves, report, batch = bad_step.read(workdir / "bad_step_3")
    assert saves.latest() == 2
    assert report["image_ids"] == batch.image_ids.tolist()
    assert batch.images.shape[0] == len(report["image_ids"]) == 8
    (line,) = (workdir / "broken_data.jsonl").read_text().splitlines()
    assert re.fullmatch(r"record \d+", json.loads(line)["file"])


def test_a_missing_process_is_named_by_all(start, tmp_path):
    flags = [["--meet_secs=3"]] * 2
    ended = ends(start(tmp_path / "run", flags, count=3, devices=1))
    for code, stderr in ended:
        assert code == 2
        assert re.search(
            r"^error: localhost:\d+: waited 3 s for 3 processes; missing: 2; present: 0 \(.*\), 1 \(.*\)\. Start",
            stderr,
            re.M,
        )
    assert not (tmp_path / "run").exists()


def test_another_config_is_named_by_all(start, tmp_path):
    ended = ends(start(tmp_path / "run", [["--config.seed=1"], ["--config.seed=2"]], count=2, devices=1))
    for code, stderr in ended:
        assert code == 2
        assert re.search(r"^error: .*process 1 \(.*\) differs from process 0: config.seed: 1 -> 2; start", stderr, re.M)


@pytest.fixture
def other_code(tmp_path) -> Path:
    """Return a copy of the code with one letter changed, in a docstring of another folder."""
    tree = tmp_path / "tree"
    for name in ("bridge_jax", "configs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    flip_a_letter(tree / "bridge_jax" / "models" / "bridge.py")
    return tree


def flip_a_letter(path: Path) -> None:
    """Change the first letter of the file's docstring to lower case."""
    content = path.read_text(encoding="utf-8")
    assert re.match('"""[A-Z]', content)
    path.write_text(content[:3] + content[3].lower() + content[4:], encoding="utf-8")


def test_other_code_is_named_by_all(start, other_code, tmp_path):
    flags = [[*FLAGS, "--meet_secs=60"]] * 2
    for code, stderr in ends(start(tmp_path / "run", flags, count=2, devices=1, trees=(ROOT, other_code))):
        assert code == 2, stderr
        line = r"process 1 \(.*\) differs from process 0: code [0-9a-f]{12} -> [0-9a-f]{12}; start all with the same .*"
        assert re.search(rf"^error: localhost:\d+: {line}$", stderr, re.M)
    assert not (tmp_path / "run").exists()


def test_a_file_of_any_folder_counts_as_code(other_code, tiny, monkeypatch):
    """The hash covers the package that is imported: here the copy."""
    cfg, package = config.parse(tiny()), other_code / "bridge_jax"
    monkeypatch.setattr(bridge_jax, "__file__", str(package / "__init__.py"))
    one_a_folder = {path.parent.name: path for path in package.rglob("*.py")}
    assert {"bridge_jax", "datasets", "models", "run"} <= one_a_folder.keys()
    codes = [distributed.about(cfg)["code"]]
    for path in one_a_folder.values():
        path.write_bytes(path.read_bytes() + b"#")
        codes.append(distributed.about(cfg)["code"])
    assert len(set(codes)) == len(one_a_folder) + 1


def test_hosts_that_prepared_other_records_are_told_apart(tiny, tmp_path):
    """Each host may have its own disk at the same path."""
    cfg = config.parse(tiny())
    link = tmp_path / "data"
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, data_dir=str(link)))
    hosts = {}
    for number, folder in enumerate((tiny().data.data_dir, tiny().data.data_dir, tmp_path / "other")):
        link.unlink(missing_ok=True)
        link.symlink_to(folder)
        hosts[number] = distributed.about(cfg)
    assert distributed._fault({0: hosts[0], 1: hosts[1]}, 2, 1.0) is None
    assert re.search(
        r"^process 2 \(.*\) differs from process 0: data [0-9a-f]{12} -> missing \(.*tools.prepare_data.*\); start all",
        distributed._fault(hosts, 3, 1.0),
    )


def test_a_process_without_its_first_says_so():
    with pytest.raises(ConfigError, match=r"process 1 waited 0.5 s for process 0, which did not answer \(.*refused"):
        distributed.meet(free_address(), 2, 1, 0.5, {})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("localhost:1", -1, 0), "set all three, or none on a TPU slice"),
        (("localhost", 2, 1), "'localhost'; expected HOST:PORT"),
        (("localhost:1", 2, 2), "--process_id is 2; expected 0 to 1"),
    ],
)
def test_flags_that_cannot_work(flags, message, tiny):
    with pytest.raises(ConfigError, match=message):
        distributed.start(config.parse(tiny()), *flags, 1.0)


def test_alone_nothing_is_started(tiny):
    distributed.start(config.parse(tiny()), "", -1, -1, 1.0)
