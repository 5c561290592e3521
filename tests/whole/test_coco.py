"""configs/coco.py as a user starts it: shrunk by overrides alone, on the real COCO photos of ../shared."""

import json

import jax
import pytest

from bridge_jax import config, paths
from bridge_jax.step import optim, sharding
from bridge_jax.step.params import param_shapes
from bridge_jax.workdir import log
from configs import coco, flickr30k
from tests import process
from tools import prepare_data

TINY = {
    "vision.depth": 2, "vision.width": 32, "vision.heads": 2, "vision.mlp_width": 64, "vision.pretrained": "",
    "vision.image_px": 32, "vision.position_grid": 2,
    "text.depth": 2, "text.width": 32, "text.heads": 2, "text.mlp_width": 64, "text.pretrained": "",
    "bridge.layers": 1, "bridge.shared_width": 32, "bridge.heads": 2, "bridge.embed_width": 16,
    "stages.stabilise.steps": 2, "stages.stabilise.batch_size": 8, "stage_order": ("stabilise",),
    "data.workers": 0, "data.threads": 2, "evals.retrieval.batch_size": 16, "evals.retrieval.bootstrap_samples": 20,
    "evals.retrieval.folds": 2,
    "log_every_steps": 1,
}  # fmt: skip


def test_the_stages_are_the_papers():
    cfg = config.parse(coco.get_config())
    assert [cfg.stages[name].steps for name in cfg.stage_order] == [4425, 13276, 8851]
    assert [cfg.stages[name].learning_rate for name in cfg.stage_order] == [1e-4, 5e-5, 1e-5]
    assert [cfg.stages[name].top_blocks for name in cfg.stage_order] == [0, 4, 0]
    assert (cfg.bridge.layers, cfg.bridge.shared_width, cfg.bridge.heads, cfg.bridge.embed_width) == (6, 768, 12, 256)
    assert (cfg.vision.image_px // cfg.vision.patch_px) ** 2 + 1 == 197
    assert cfg.text.length == 30
    smaller = config.parse(flickr30k.get_config())
    assert [smaller.stages[name].steps for name in smaller.stage_order] == [1133, 3398, 2266]
    assert smaller.bridge == cfg.bridge


@pytest.mark.parametrize(
    ("size", "millions"),
    [
        ("large", 303 + 334),  # Hugging Face's counts of both towers without poolers
        ("huge", 631 + 354),
    ],
)
def test_larger_sizes(size, millions):
    """Towers of the sizes that they are published in, every rule alive, fsdp over 8 devices."""
    cfg = config.parse(coco.get_config(f"size={size}"))
    mesh = jax.sharding.AbstractMesh((1, 8, 1), sharding.AXES)
    params = param_shapes(cfg)
    sharding.layout(cfg, params, mesh)(params)
    towers = sum(leaf.size for path, leaf in paths.flatten(params).items() if path.startswith(("vision/", "text/")))
    assert round(towers / 1e6) == millions
    for name in cfg.stage_order:
        assert optim.trainable_paths(cfg, cfg.stages[name], paths.flatten(params))


def test_an_unknown_size_is_one_clear_line():
    with pytest.raises(ValueError, match=r"configs/coco.py:size=giant: expected size= and one of base, large, huge"):
        coco.get_config("size=giant")


@pytest.fixture(scope="module")
def trained(shared, tmp_path_factory):
    """The workdir and the output of a run of configs/coco.py with overrides only."""
    folder = tmp_path_factory.mktemp("coco")
    prepare_data.prepare("coco", str(folder / "data"), raw_dir=str(shared / "data" / "coco"))
    values = TINY | {
        "data.data_dir": folder / "data",
        "data.vocabulary": shared / "weights" / "minilm_l6" / "vocab.txt",
        "cache_dir": folder / "cache",
    }
    flags = [f"--config.{key}={value}" for key, value in values.items()]
    done = process.run("bridge_jax.main", "--config=configs/coco.py", f"--workdir={folder / 'run'}", *flags)
    assert done.returncode == 0, done.stderr
    return folder / "run", done


def test_it_trains_and_evaluates_by_overrides_alone(trained):
    workdir, done = trained
    assert "coco/test, step 2" in done.stdout
    for direction in ("text_to_image", "image_to_text"):
        for score in ("unimodal", "rerank"):
            assert any(line.startswith(f"│ {direction} ") and f" {score} " in line for line in done.stdout.splitlines())
    entries = log.read(workdir / "metrics.jsonl")
    assert [entry["step"] for entry in entries if "train/loss" in entry] == [1, 2]
    final = entries[-1]
    assert 0 <= final["final/test/unimodal/rsum"] <= 600
    assert "final/test/unimodal/2_folds/text_to_image/r@1" in final
    assert json.loads(json.dumps(final)) == final


def test_it_says_nothing_to_stderr(trained):
    assert trained[1].stderr == ""
