"""The contract of a loss: a file that lacks a part of it, or names an unknown pass, is refused by name."""

import sys

import pytest

import bridge_jax.losses
from bridge_jax.config import ConfigError, objectives

NEEDS = "from bridge_jax.config.objectives import Needs\nNEEDS = Needs(passes={})\n"
LOSS = "def loss(outputs, batch): ...\n"


@pytest.fixture
def oddity(monkeypatch, tmp_path):
    """Return a function that makes the text of a file the only loss, `oddity`."""

    def write(source):
        (tmp_path / "oddity.py").write_text(source)
        objectives.known.cache_clear()
        objectives._module.cache_clear()

    monkeypatch.setattr(objectives, "FOLDER", tmp_path)
    monkeypatch.setattr(bridge_jax.losses, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "bridge_jax.losses.oddity", raising=False)
    yield write
    sys.modules.pop("bridge_jax.losses.oddity", None)
    objectives.known.cache_clear()
    objectives._module.cache_clear()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("", r"^bridge_jax/losses/oddity\.py lacks loss and NEEDS; bridge_jax/config/objectives\.py says"),
        (LOSS, r"^bridge_jax/losses/oddity\.py lacks NEEDS;"),
        (NEEDS.format("('unimodl',)") + LOSS, r"NEEDS\.passes has 'unimodl', which is no pass; nearest: 'unimodal'$"),
        (NEEDS.format("('unimodal')") + LOSS, r"oddity\.py: NEEDS\.passes has 'u', which is no pass; known: compared"),
    ],
)
def test_a_loss_that_breaks_the_contract_is_refused_by_name(oddity, source, says):
    oddity(source)
    with pytest.raises(ConfigError, match=says):
        objectives.needs("oddity")


def test_a_loss_that_keeps_the_contract_is_found(oddity):
    oddity(NEEDS.format("('unimodal', 'fused')") + LOSS)
    assert objectives.needs("oddity").passes == ("unimodal", "fused")
