"""The command line as a user meets it: a fault is one line on stderr and exit code 2, and nothing is touched."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bridge_jax import config
from bridge_jax.step import sharding, train_step
from bridge_jax.step.params import init_params
from bridge_jax.workdir.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]
SHAPES = "--config=configs/shapes.py"


def run(*arguments):
    command = [sys.executable, "-m", "bridge_jax.main", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--config is missing: name an experiment"),
        (["--config=configs/nothere.py"], "No such file or directory: 'configs/nothere.py'"),
        (["--config=configs/nothere.py", "--config.seed=1"], "No such file or directory: 'configs/nothere.py'"),
        (["--config=configs/coco.py:size=giant"], "expected size= and one of base, large, huge (File "),
        ([SHAPES], "--workdir is missing"),
        ([SHAPES, "--workdir="], "--workdir is missing"),
        ([SHAPES, "--config.sed=1"], "'sed' Did you mean \"seed\""),
        ([SHAPES, "--config.losses.itc.wight=1"], "'wight' Did you mean \"weight\""),
        ([SHAPES, "--config.seed=abc"], "invalid literal for int() with base 10: 'abc'"),
        ([SHAPES, "--config.data.crop_area=abc"], "crop_area"),
        ([SHAPES, "--config.bridge.placement=topp"], "config.bridge.placement: 'topp' is unknown; nearest: 'top'"),
        ([SHAPES, "--workdirr=x"], "Did you mean: workdir"),
        ([SHAPES, "seed=1"], "unexpected argument 'seed=1': flags look like --config.seed=1"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments, says):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            ["--config.data.data_dir=/nothing"],
            "is not prepared in /nothing/shapes/2.3.0; run python -m tools.prepare_data",
        ),
        (["--config.data.eval_split=vall"], "has no split 'vall'; nearest: 'val' (--split, config.data.train_split"),
        (["--config.text.vocab_size=20"], "tokens but config.text.vocab_size is 20"),
        (["--config.data.vocabulary=/no/vocab.txt"], "config.data.vocabulary: no file /no/vocab.txt"),
        (
            ["--config.stages.align.train=(('vison/.*', False), ('.*', True))"],
            "config.stages.align.train: rule 'vison/.*' matches no parameter; nearest: 'vision/.*'",
        ),
        (["--config.evals.retrieval.folds=3"], "3 folds do not divide the 16 photos of 'val'"),
        (["--config.vision.pretrained=/no/tower"], "/no/tower"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(tiny_flags, tmp_path, changes, says):
    done = run(*tiny_flags, *changes, f"--workdir={tmp_path / 'run'}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_workdir_of_another_config_is_refused(tiny, tiny_flags, tmp_path):
    cfg = config.parse(tiny())
    params = init_params(cfg)
    stage_step = train_step.build(cfg, cfg.stages["stabilise"], 0, sharding.make_mesh(cfg.mesh))
    saves = Checkpoints(tmp_path)
    saves.save(2, "stabilise", params, stage_step.init(2, params).opt_state, cfg)
    saves.close()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = run(*tiny_flags, "--config.seed=1", f"--workdir={tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the checkpoint of step 2 was made with a different config (seed: 0 -> 1)" in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_bad_number_is_exit_code_3_and_names_step_and_tensor(tiny_flags, tmp_path):
    rates = ["--config.stages.stabilise.learning_rate=1e38", "--config.evals.retrieval.every_steps=1000"]
    done = run(*tiny_flags, *rates, f"--workdir={tmp_path}")
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("error: step ")
    assert "of stage 'stabilise': the first bad number is in " in done.stderr
    assert done.stderr.count("\n") == 1
    (left,) = tmp_path.glob("bad_step_*")
    again = [sys.executable, "-m", "tools.replay", f"--folder={left}"]
    done = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, timeout=300)
    report = json.loads((left / "report.json").read_text())
    assert done.returncode == 3
    assert done.stdout.startswith(f"step {report['step']} of stage 'stabilise', image ids {report['image_ids'][0]} ")
    assert f"is in {report['first_bad']}; it was in {report['first_bad']}" in done.stderr


def test_dry_run_shows_parameters_batches_and_costs(tiny_flags, tiny):
    done = run(*tiny_flags, "--dry_run")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.search(r"^ heads +\d+ +0\.\d{3} ", done.stdout, re.MULTILINE)
    stages = done.stdout.split("\nstage ")[1:]
    assert [stage.split(":")[0] for stage in stages] == ["stabilise", "align", "task"]
    assert "images: uint8[8, 32, 32, 3]" in stages[0]
    assert "ids: int32[8, 16]" in stages[0]
    assert "lower_image: float16[8, 5, 32]" in stages[1]
    assert "lower_text: float16[8, 16, 32]" in stages[1]
    for stage in stages:
        assert "GFLOP a step, peak memory 0.0" in stage
    trains = [[int(n) for n in re.findall(r"trains (\d+) of (\d+) arrays", stage)[0]] for stage in stages]
    assert trains[0] == trains[2] == [trains[1][1]] * 2
    assert 0 < trains[1][0] < trains[1][1]
