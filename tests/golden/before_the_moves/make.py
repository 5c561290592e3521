"""Make the runs of the code before the moves, which tests/whole/test_before_the_moves.py reads and goes on with.

In a checkout of the last commit before them, 0611bc4, with HERE the folder of this file:

    PYTHONPATH=. python HERE/make.py /tmp/made && cp /tmp/made/runs.tar.xz HERE/

runs.tar.xz holds

    finished/       the log of a run of two stages: 4 steps of itc, then 8 of four losses on cached states
    exported/       config.json, model.safetensors and tokenizer.json of tools.export_pytorch at its end
    stopped/        the workdir of the same run, stopped by SIGTERM in the middle of the second stage
    expected.json   the metrics of tools.evaluate on stopped/, and a hash of every parameter there and at the end

Every command ran with the compiler's flags of tests/conftest.py. The config names data and cache relative to the new
folder. Two things of stopped/ are left out, for their size, which no run needs to go on: the checkpoint before the
newest, and TensorBoard's log.
"""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from signal import SIGTERM

import ml_collections
import numpy as np

from bridge_jax import config as configs
from bridge_jax.data import shapes as scenes
from configs import common, shapes
from tests import conftest, runs
from tools import prepare_data

STAGES = {"stabilise": 4, "align": 8}
STOP_AFTER = 6  # of the 12 steps
LAST = sum(STAGES.values())
NEWEST = "--checkpoint=latest"
EXPORTED = ("config.json", "model.safetensors", "tokenizer.json")
LEFT_OUT = ("stopped/checkpoints/4", "stopped/tensorboard")


def get_config() -> ml_collections.ConfigDict:
    """Return an experiment of all that a checkpoint may hold: parameters of no stage, weights of losses, two stages."""
    config = shapes.get_config()
    small = dict(depth=1, width=4, heads=2, mlp_width=8, dropout=0.1)
    config.vision.update(small | dict(patch_px=4, image_px=8, position_grid=2))
    config.text.update(small | dict(length=16, vocab_size=64, max_positions=16))
    config.bridge.update(placement="middle", layers=1, shared_width=4, heads=2, embed_width=4)
    config.data.update(data_dir="data", crop_area=(0.5, 1.0), threads=2, prefetch_batches=2)
    quick = dict(batch_size=8, learning_rate=1e-3)
    all_but_words = (("text/word/.*", False), *common.EVERYTHING)
    config.stages = dict(
        stabilise=common.stage(**quick, steps=STAGES["stabilise"], losses=("itc",), train=all_but_words),
        align=common.stage(**quick, steps=STAGES["align"], group_examples=2, cached_crops=2),
    )
    config.stage_order = tuple(STAGES)
    config.loss_weighting = "bounded"
    config.mining.partners = 2
    config.evals.retrieval.update(
        every_steps=4, batch_size=16, select_images=0, splits=("val",), rerank_top_k=4, bootstrap_samples=20
    )
    config.checkpoint.update(every_steps=4, keep_last=1)
    config.log_every_steps = 1
    config.cache_dir = "cache"
    return config


def main(out: Path) -> None:
    """Make the new folder `out`."""
    here, tree = Path(__file__).resolve(), Path.cwd()
    environment = os.environ | {"PYTHONPATH": str(tree), "DRILL_STALL": "slow", "DRILL_LOG": os.devnull}
    assert conftest.QUICK in environment["XLA_FLAGS"]
    out.mkdir(parents=True)
    os.chdir(out)
    scenes.HELD_OUT_SCENES, scenes.HELD_OUT_PAIRS = 16, 8  # as the fixture small_shapes has it
    prepare_data.prepare("shapes", "data", num_train=32, seed=0)

    def run(*command: str) -> None:
        subprocess.run([sys.executable, "-m", *command], env=environment, check=True)

    run("bridge_jax.main", f"--config={here}", "--workdir=finished")
    slow = [sys.executable, "-m", "tests.drills.child", f"--config={here}", "--workdir=stopped"]  # 0.5 s a batch
    stop(subprocess.Popen(slow, env=environment))
    run("tools.export_pytorch", "--workdir=finished", NEWEST, "--out=export")
    run("tools.evaluate", "--workdir=stopped", NEWEST, "--split=test", "--rerank", "--json=evaluated.json")
    pack()


def stop(running: subprocess.Popen) -> None:
    """Send SIGTERM when STOP_AFTER was logged, and wait for the end."""
    log = Path("stopped/metrics.jsonl")
    while not (log.exists() and f'{{"step": {STOP_AFTER},' in log.read_text()):
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(SIGTERM)
    assert running.wait() == 128 + SIGTERM


def pack() -> None:
    """Write runs.tar.xz."""
    evaluated = json.loads(Path("evaluated.json").read_text())
    last = {"stopped": evaluated["step"], "finished": LAST}
    expected = {
        "step": evaluated["step"],
        "metrics": evaluated["metrics"],
        "parameters": {workdir: hashes(Path(workdir), step) for workdir, step in last.items()},
    }
    Path("expected.json").write_text(json.dumps(expected) + "\n")
    with tarfile.open("runs.tar.xz", "w:xz", preset=9) as archive:
        for name in EXPORTED:
            archive.add(f"export/{name}", f"exported/{name}", filter=without_traces)
        archive.add("finished/metrics.jsonl", filter=without_traces)
        archive.add("stopped", filter=without_traces)
        archive.add("expected.json", filter=without_traces)


def hashes(workdir: Path, step: int) -> dict[str, str]:
    """Return path -> the start of the SHA-256 of the parameter's bytes."""
    leaves = runs.parameters(workdir, configs.parse(get_config()), step)
    return {path: hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()[:16] for path, leaf in sorted(leaves.items())}


def without_traces(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out LEFT_OUT, and of every file who made it and when."""
    if entry.name in LEFT_OUT:
        return None
    entry.uid, entry.gid, entry.uname, entry.gname, entry.mtime = 0, 0, "", "", 0
    return entry


if __name__ == "__main__":
    main(Path(sys.argv[1]))
