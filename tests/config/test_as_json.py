"""The config's way to JSON, and what two configs differ in. The way back: tests/workdir/test_checkpoint.py."""

import dataclasses
import json

from bridge_jax import config
from bridge_jax.config import as_json


def test_differences_name_key_and_values(tiny):
    cfg = config.parse(tiny())
    saved = json.loads(json.dumps(as_json.as_dict(cfg)))
    changed = dataclasses.replace(cfg, seed=5, vision=dataclasses.replace(cfg.vision, mean=(0.1, 0.5, 0.5)))
    assert as_json.differences(saved, changed) == [
        "seed: 0 -> 5",
        "vision.mean: [0.5, 0.5, 0.5] -> [0.1, 0.5, 0.5]",
    ]
    fewer = dataclasses.replace(cfg, losses={"itc": cfg.losses["itc"]})
    assert "losses.cycle: {'weight': 0.1} -> None" in as_json.differences(saved, fewer)
