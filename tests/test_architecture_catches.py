"""The checks of test_architecture.py catch the violations they are for, and nothing else."""

import re

import pytest

from tests.architecture import HOMES, LONGER, ROOMS, Room
from tests.test_architecture import (
    SOURCES,
    dead_rules,
    floor_violations,
    home_violations,
    idiom_violations,
    length_violations,
    shipping_violations,
)

KNOWN = ["bridge_jax/models/vit.py", "bridge_jax/losses/itc.py", "bridge_jax/step/forward.py",
         "bridge_jax/workdir/log.py", "bridge_jax/run/train.py", "bridge_jax/config/keys.py"]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "source", "caught"),
    [
        ("bridge_jax/data/foo.py", "from bridge_jax.models import vit", "floor 2.* imports bridge_jax/models/vit.py"),
        ("bridge_jax/losses/foo.py", "from bridge_jax.step import forward", "floor 3.* imports bridge_jax/step"),
        ("bridge_jax/losses/foo.py", "def f():\n    import bridge_jax.run.train", "imports bridge_jax/run/train.py"),
        ("bridge_jax/step/foo.py", "from bridge_jax.workdir.log import x", "imports bridge_jax/workdir/log.py"),
        ("bridge_jax/evals/scores/foo.py", "from bridge_jax.losses.itc import x", "of losses"),
        ("bridge_jax/stray.py", "", "place the file"),
        ("bridge_jax/models/deep/foo.py", "", "place the file"),
        ("bridge_jax/losses/foo.py", "from bridge_jax.losses import itc\nfrom bridge_jax.config.keys import x", None),
        ("bridge_jax/run/foo.py", "from bridge_jax.step import forward\nfrom bridge_jax.run import train", None),
    ],
)  # fmt: skip
def test_the_floor_check_catches(path, source, caught):
    lines = "\n".join(floor_violations(path, source, KNOWN))
    assert re.search(caught, lines) if caught else lines == ""


@pytest.mark.parametrize(
    ("check", "source", "caught"),
    [
        (home_violations, "import torch", "torch is for bridge_jax/interop"),
        (home_violations, "def f():\n    from tensorflow.io import gfile", "for nobody"),
        (home_violations, "import tensorflow_datasets", "tensorflow_datasets is for"),
        (home_violations, "import torchvision_is_not_torch", None),
        (home_violations, "from PIL import Image", "PIL"),
        (idiom_violations, "x = cfg.losses.get('itc', 1)", "hides"),
        (idiom_violations, "getattr(config.vision, 'depth', 12)", "hides"),
        (idiom_violations, "np.load(f, allow_pickle=True)", "runs what a file says"),
        (idiom_violations, "np.load(f)", "say allow_pickle=False"),
        (idiom_violations, "np.load(f, allow_pickle=False)", None),
        (idiom_violations, "table.get('a', 1), getattr(config, 'x'), config['x']", None),
        (length_violations, "\n" * 301, "301 lines"),
        (length_violations, "def f():\n" + "    x = 1\n" * 60, "f has 61 lines"),
        (length_violations, "def f():\n" + "    x = 1\n" * 59, None),
    ],
)
def test_the_other_checks_catch(check, source, caught):
    lines = "\n".join(check("bridge_jax/losses/foo.py", source))
    assert re.search(caught, lines) if caught else lines == ""


@pytest.mark.parametrize(
    ("path", "source", "caught"),
    [
        ("torch_model/modeling_bridge.py", "import torch\nfrom torch import nn\nfrom .other import x", None),
        ("torch_model/modeling_bridge.py", "from bridge_jax.types import Batch", "bridge_jax.types will not be there"),
        ("torch_model/modeling_bridge.py", "def f():\n    import jax", "jax will not be there"),
        ("torch_export.py", "import torch", "torch is for bridge_jax/interop/torch_model"),
        ("torch_export.py", "from .names import whole", "a relative import"),
    ],
)
def test_torch_has_its_home(path, source, caught):
    path = f"bridge_jax/interop/{path}"
    lines = "\n".join(home_violations(path, source) + shipping_violations(path, source))
    assert re.search(caught, lines) if caught else lines == ""


def test_a_rule_that_nothing_needs_is_caught(monkeypatch):
    assert dead_rules(SOURCES) == []
    monkeypatch.setitem(ROOMS, "attic", Room(4, "to come", ("bridge_jax/attic/*.py",)))
    monkeypatch.setitem(HOMES, "grain", [*HOMES["grain"], "bridge_jax/data/text.py"])
    monkeypatch.setitem(LONGER, "bridge_jax/types.py", "no reason")
    monkeypatch.setitem(LONGER, "bridge_jax/gone.py", "no reason")
    lines = dead_rules(SOURCES)
    assert [line.split(":")[0] for line in lines] == [
        "ROOMS['attic']", "HOMES['grain']", "LONGER['bridge_jax/types.py']", "LONGER['bridge_jax/gone.py']"
    ]  # fmt: skip
