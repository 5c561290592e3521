"""Every tracker shows what metrics.jsonl holds, read back by its own library; one that fails ends no run."""

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import wandb
from mlflow import MlflowClient
from mlflow.entities import ViewType
from tensorboardX.proto.event_pb2 import Event
from wandb.proto.wandb_internal_pb2 import Record

from bridge_jax import config
from bridge_jax.config import ConfigError
from bridge_jax.run import train
from bridge_jax.workdir import tracking
from bridge_jax.workdir.log import RunLog
from bridge_jax.workdir.log import read as read_log
from bridge_jax.workdir.trackers import mlflow
from tests import runs

ALL = ("tensorboard", "wandb", "mlflow", "trackio")


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    """No tracker may ask the network, whatever this machine's environment says."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_"))]:
            patch.delenv(name)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))  # is read when it is imported
        yield


@pytest.fixture
def in_files(tmp_path, monkeypatch):
    """MLflow's older store of plain files begins in no time. Return a client of it."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    return lambda: MlflowClient(f"file:{tmp_path}/mlruns")


def the_run(client):
    (experiment,) = (each for each in client.search_experiments() if each.name == "bridge_jax")
    (run,) = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    return run


def in_mlflow(client) -> list:
    run = the_run(client)
    history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return [(each.step, name, each.value) for name, found in history.items() for each in found]


def in_wandb(folder: Path) -> list:
    """Read the files by their format, LevelDB's log: blocks of 32 KiB of records; checksum, length, type, a part."""
    wandb.teardown()  # its process writes the end of a file when it ends
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        data, at, parts = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
            parts, at = parts + data[at + 7 : at + 7 + size], at + 7 + size
            if kind in (1, 4):  # whole, or the last part
                history, parts = Record.FromString(parts).history, b""
                items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in history.item}
                found += [(history.step.num, k, float(v)) for k, v in items.items() if not k.startswith("_")]
    return found


def in_tensorboard(folder: Path) -> list:
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event, data = Event.FromString(data[12 : 12 + size]), data[16 + size :]
            if event.HasField("session_log"):
                found = [each for each in found if each[0] < event.step]
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


def in_trackio(run: str) -> list:
    from trackio.sqlite_storage import SQLiteStorage  # TRACKIO_DIR is read when trackio is imported

    found = SQLiteStorage.get_logs("bridge_jax", run)
    return [(one["step"], name, one[name]) for one in found for name in one.keys() - {"step", "timestamp"}]


def in_log(folder: Path) -> list:
    """Return what a tracker should hold, but for clocks: a step that ran twice took another time."""
    return sorted((step, name, value) for (step, name), value in runs.logged(folder).items() if name != "step")


def without_clocks(found: list) -> list:
    return sorted(each for each in found if each[1] not in runs.CLOCK_METRICS and not each[1].startswith("goodput/"))


@pytest.mark.usefixtures("keep_compilation_cache")
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow asks SQLAlchemy for it
def test_a_run_that_was_stopped_and_resumed_is_one_run_in_every_tracker(tiny, tmp_path, monkeypatch):
    settings = tiny()
    settings.stage_order, settings.trackers = ("stabilise",), ALL
    settings.stages.stabilise.steps = 6
    cfg = config.parse(settings)
    runs.stopped_at((5,), cfg, tmp_path, monkeypatch)
    expected = in_log(tmp_path)
    assert {name for _, name, _ in expected} > {"train/loss", "eval/unimodal/rsum", "final/val/rerank/rsum"}
    assert without_clocks(in_wandb(tmp_path)) == expected
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert without_clocks(in_mlflow(client)) == sorted((step, mlflow.named(name), v) for step, name, v in expected)
    # TensorBoard has float32, and letters, digits and `_-./` in names.
    narrow = [(step, re.sub(r"[^\w\-./]", "_", name), float(np.float32(value))) for step, name, value in expected]
    assert without_clocks(in_tensorboard(tmp_path)) == sorted(narrow)
    run = the_run(client)
    assert (run.info.run_name, run.info.status) == (tmp_path.name, "FINISHED")
    assert run.data.params["stages.stabilise.learning_rate"] == "0.001"
    trackio_run = tracking.read(tmp_path / tracking.FILE)["trackio"][0]
    assert trackio_run.startswith(f"{tmp_path.name}-")
    assert without_clocks(in_trackio(trackio_run)) == expected
    (stored,) = sys.modules["trackio"].Api().runs("bridge_jax")
    assert stored.config["stages"]["stabilise"]["learning_rate"] == 0.001
    (wandb_run,) = {path.name.split("-")[-1] for path in tmp_path.glob("wandb/offline-run-*")}
    assert tracking.read(tmp_path / tracking.FILE)["wandb"][0] == wandb_run


def test_what_runs_again_twice_is_shown_once(tmp_path, in_files):
    for resume_step, end in ((0, 8), (4, 6), (4, 10)):
        with RunLog(tmp_path, resume_step, ["mlflow"]) as log:
            for step in range(resume_step + 1, end):
                log.write(step, {"loss": 1.0 / step})
                if step % 2 == 0:
                    log.write(step, {"eval/r@1": step})
    assert sorted(in_mlflow(in_files())) == sorted((step, mlflow.named(name), v) for step, name, v in in_log(tmp_path))


def test_a_tracker_that_is_added_later_misses_nothing_that_comes(tmp_path, in_files):
    with RunLog(tmp_path, 0, []) as log:
        for step in range(1, 8):
            log.write(step, {"loss": 0.5})
    with RunLog(tmp_path, 4, ["mlflow"]) as log:
        for step in range(5, 9):
            log.write(step, {"loss": 0.25})
    assert sorted(in_mlflow(in_files())) == [(step, "loss", 0.25) for step in range(5, 9)]


def test_the_end_of_a_run_is_told(tmp_path, in_files):
    def state():
        return the_run(in_files()).info.status

    def fail():
        with RunLog(tmp_path, 0, ["mlflow"]):
            assert state() == "RUNNING"
            raise FloatingPointError

    with pytest.raises(FloatingPointError):
        fail()
    assert state() == "FAILED"
    with RunLog(tmp_path, 0, ["mlflow"]):
        assert state() == "RUNNING"
    assert state() == "FINISHED"


def test_a_tracker_that_fails_is_off_and_the_others_go_on(tmp_path, in_files, caplog):
    with RunLog(tmp_path, 0, ["tensorboard", "mlflow"]) as log:
        log.write(1, {"loss": 1.0})
        (tmp_path / "mlruns").rename(tmp_path / "gone")  # its disk went away
        for step in (2, 3):
            log.write(step, {"loss": 1.0})
    (line,) = caplog.messages
    assert line.startswith("the tracker mlflow failed and is off until the run is started again; the log goes on: ")
    assert in_log(tmp_path) == in_tensorboard(tmp_path) == [(step, "loss", 1.0) for step in (1, 2, 3)]


def test_a_tracker_that_cannot_begin_is_off(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    with RunLog(tmp_path, 0, ["tensorboard"]) as log:
        log.write(1, {"loss": 1.0})
    assert in_log(tmp_path) == [(1, "loss", 1.0)]
    assert [line.partition(":")[2] for line in caplog.messages] == [
        f" FileExistsError: [Errno 17] File exists: '{tmp_path}/tensorboard'"
    ]


def test_an_unknown_tracker_is_refused_before_anything_is_written(tiny, tmp_path):
    settings = tiny()
    settings.trackers = ("tensorbord",)
    with pytest.raises(ConfigError, match=r"config\.trackers: 'tensorbord' is unknown; nearest: 'tensorboard'"):
        train.run(config.parse(settings), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # so Python finds none
    with pytest.raises(ConfigError, match=r"'wandb' needs the package wandb, .*: pip install 'bridge_jax\[wandb\]'"):
        tracking.check(["wandb"])


def test_trackio_says_nothing_and_runs_of_one_name_stay_apart(tmp_path, capfd):
    for place, value in (("a", 1.0), ("b", 2.0)):
        with RunLog(tmp_path / place / "run", 0, ["trackio"]) as log:
            log.write(1, {"loss": value})
        (name, _) = tracking.read(tmp_path / place / "run" / tracking.FILE)["trackio"]
        assert in_trackio(name) == [(1, "loss", value)]
    assert capfd.readouterr() == ("", "")


def test_a_damaged_file_of_runs_is_named(tmp_path):
    (tmp_path / tracking.FILE).write_text('{"wandb": {"run": "a"}}')
    with pytest.raises(ConfigError, match=r"trackers\.json: expected the ids of the run .*; delete it"):
        RunLog(tmp_path, 0, ["wandb"])


def test_values_that_json_cannot_say_reach_a_tracker(tmp_path, in_files):
    with RunLog(tmp_path, 0, ["wandb", "mlflow"]) as log:
        log.write(1, {"a": float("nan"), "b": float("inf"), "c": -float("inf"), "val[0::2]/r@1": 1.0})
    found = {name: str(value) for _, name, value in in_mlflow(in_files())}
    assert found == {"a": "nan", "b": "inf", "c": "-inf", "val_0::2_/r_1": "1.0"}
    assert {name: str(value) for _, name, value in in_wandb(tmp_path)}["b"] == "inf"
    assert len(read_log(tmp_path / "metrics.jsonl")) == 1
