import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from bridge_jax.config import ConfigError
from bridge_jax.workdir.log import RunLog, read


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder):
    """Read the TensorBoard files by their format: length, its checksum, the event, its checksum."""
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            assert int.from_bytes(data[8:12], "little") == masked_crc32c(data[:8])
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def scalars(folder):
    return [(e.step, v.tag, v.simple_value) for e in events(folder) for v in e.summary.value]


def test_a_line_a_write_in_order_on_disk_at_once(tmp_path):
    with RunLog(tmp_path / "deep" / "run") as log:
        log.write(3, {"loss": jnp.float32(0.5), "itc/accuracy": np.float64(0.25)})
        (entry,) = lines(tmp_path / "deep" / "run")  # before close
        assert list(entry) == ["step", "time", "loss", "itc/accuracy"]
        assert entry["step"] == 3
        assert (entry["loss"], entry["itc/accuracy"]) == (0.5, 0.25)
        assert entry["time"] > 1.6e9
    assert scalars(tmp_path / "deep" / "run") == [(3, "loss", 0.5), (3, "itc/accuracy", 0.25)]


def test_what_json_cannot_say_is_valid_json_and_comes_back(tmp_path):
    with RunLog(tmp_path) as log:
        log.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "metrics.jsonl").read_text()
    entry = json.loads(text, parse_constant=refuse)
    assert (entry["a"], entry["b"], entry["c"]) == ("NaN", "Infinity", "-Infinity")
    (back,) = read(tmp_path / "metrics.jsonl")
    assert math.isnan(back["a"])
    assert (back["b"], back["c"]) == (math.inf, -math.inf)


def test_resume_has_every_entry_once(tmp_path):
    def run(log, start, stop):
        for step in range(start, stop):
            if step % 2 == 0:
                log.write(step, {"eval/r@1": 10.0 * step})  # the state before the step, evaluated again on resume
            log.write(step + 1, {"loss": 1.0 / (step + 1)})

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with RunLog(whole, resume_step=0) as log:
        run(log, 0, 8)
    with RunLog(killed, resume_step=0) as log:
        log.write(0, {"eval/r@1": 0.0})  # a run that was killed before its first checkpoint
    with RunLog(killed, resume_step=0) as log:
        run(log, 0, 7)
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "ti')  # killed in the middle of a line
    with RunLog(killed, resume_step=4) as log:
        run(log, 4, 8)

    def content(folder):
        return [{k: v for k, v in entry.items() if k != "time"} for entry in lines(folder)]

    # Only the evaluation that ran before the loss of its step moves, so compare as the set of entries of each step.
    assert sorted(content(killed), key=str) == sorted(content(whole), key=str)
    assert [entry["step"] for entry in content(killed)] == sorted(entry["step"] for entry in content(killed))
    assert not (killed / "metrics.jsonl.tmp").exists()


def test_resume_tells_tensorboard_to_forget_what_follows(tmp_path):
    with RunLog(tmp_path, resume_step=0) as log:
        for step in range(1, 6):
            log.write(step, {"loss": 1.0})
    with RunLog(tmp_path, resume_step=3) as log:
        log.write(4, {"loss": 2.0})
    # TensorBoard drops the events at and after the step of a START message.
    starts = [e.step for e in events(tmp_path) if e.HasField("session_log")]
    assert starts == [1, 4]


def test_resume_keeps_values_that_json_cannot_say(tmp_path):
    with RunLog(tmp_path) as log:
        log.write(1, {"a": math.nan})
    before = (tmp_path / "metrics.jsonl").read_text()
    RunLog(tmp_path, resume_step=1).close()
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_without_resume_the_log_is_only_appended_to(tmp_path):
    for _ in range(2):
        with RunLog(tmp_path) as log:
            log.write(5, {"a": 1.0})
    assert [entry["step"] for entry in lines(tmp_path)] == [5, 5]


def test_a_damaged_log_is_an_error_and_stays(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 0}\ngarbage\n{"step": 2, "time": 0}\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 2: expected a log entry, got 'garbage'"):
        RunLog(tmp_path, resume_step=1)
    assert "garbage" in (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.parametrize("name", ["step", "time"])
def test_the_names_of_the_fields_are_taken(tmp_path, name):
    with RunLog(tmp_path) as log, pytest.raises(ValueError, match=f"metric '{name}'"):
        log.write(1, {name: 1.0})
    assert lines(tmp_path) == []


def test_a_bucket_is_an_error():
    with pytest.raises(ConfigError, match=r"'gs://bucket/run': .* a local or mounted folder"):
        RunLog("gs://bucket/run")


def test_only_process_zero_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with RunLog(tmp_path / "run", resume_step=0) as log:
        log.write(1, {"a": 1.0})
    assert not (tmp_path / "run").exists()


def test_tensorflow_torch_and_the_other_trackers_stay_out(tmp_path):
    code = (
        "import sys; from bridge_jax.workdir import log, tracking; tracking.check(['tensorboard', 'wandb', 'mlflow']); "
        "log = log.RunLog(sys.argv[1]); log.write(1, {'a': 1.0}); log.close(); "
        "print(*{'tensorflow', 'torch', 'wandb', 'mlflow'} & {m.split('.')[0] for m in sys.modules})"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True)
    assert ran.stdout.split() == []


HANGING = """
import resource, sys
from bridge_jax.workdir.log import RunLog
log = RunLog(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))  # as a full disk: every write fails
for step in range(2000):
    try:
        log.write(step, {f"metric_{i}": 1.0 for i in range(10)})
    except OSError:
        log._lines = open("/dev/null", "w")
raise SystemExit(5)
"""


def test_a_full_disk_does_not_keep_the_process(tmp_path):
    """TensorBoard's thread dies of it, and what it should have written fills the pipe that leads to it."""
    found = subprocess.run(
        [sys.executable, "-c", HANGING, str(tmp_path)], timeout=60, capture_output=True, cwd=Path(__file__).parents[2]
    )
    assert found.returncode == 5
