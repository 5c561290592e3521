"""THE leak probe (docs/method.md 5.1 to 5.3): on unrelated pairs every score we report stays at chance.

Trained with the published form of the fused contrast the model learns to mark its pairs, and its score of fresh pairs
is almost perfect. Trained and scored with jointly fused pairs it stays at chance.
"""

import pkgutil

import numpy as np
import pytest

from bridge_jax import losses
from bridge_jax.step import leak_probe
from tests import tiny

CASES = {
    "alone": (("itc", "fused_itc", "itm"), {}),
    "token_itc and cycle": (("itc", "fused_itc", "itm", "token_itc", "cycle"), {}),
    "partners of the split": (("sigmoid", "fused_itc", "itm", "distil"), dict(source="split", ranks=(1, 1))),
}


def config(form: str, tried: tuple[str, ...] = ("itc", "fused_itc", "itm"), **mining):
    """Return one block with one interaction layer above it. The layers below are frozen and never run."""
    return leak_probe.shrink(
        tiny.config(
            losses=dict(fused_itc=dict(weight=1.0, form=form)),
            mining=dict(partners=1) | mining,
            stage=dict(losses=tried),
        )
    )


def test_every_loss_of_scores_and_every_source_of_partners_is_probed():
    every = {file.name for file in pkgutil.iter_modules(losses.__path__)}
    probed = {name for name in every if leak_probe._reads_states(name)}
    assert {name for tried, _ in CASES.values() for name in tried} == probed
    assert {mining.get("source", "batch") for _, mining in CASES.values()} == {"batch", "split"}


@pytest.mark.parametrize(("tried", "mining"), CASES.values(), ids=CASES)
def test_joint_fusion_stays_at_chance(tried, mining):
    """Unimodal cosine, fused similarity and match logit, with each of the 64 x 64 pairs of a set fused."""
    cfg = config("joint", tried, **mining)
    params, metrics = leak_probe.train(cfg)
    found = leak_probe.counts(cfg, params)
    assert list(found) == ["unimodal", "similarity", "match"]
    for name, count in found.items():
        assert count.at_chance, f"{name}: {count.hits} hits, chance is {count.low} to {count.high}"
    # The same from the side of the loss: no better than an even guess between two.
    assert metrics["fused_itc/loss"] == pytest.approx(np.log(2), abs=0.05)


def test_a_model_without_a_bridge_has_one_score(monkeypatch):
    """Trained for two steps, as no pair is fused and nothing could leak."""
    monkeypatch.setattr(leak_probe, "STEPS", 2)
    cfg = tiny.config(bridge=dict(design="none", layers=0), stage=dict(losses=("itc",)))
    found = leak_probe.probe(cfg)
    assert list(found) == ["unimodal"]
    assert found["unimodal"].at_chance


def test_the_papers_form_leaks():
    """p_t of the true pair i against p_v of the true pair j: over 90 % on pairs that have nothing in common."""
    found = leak_probe.probe(config("paper"))
    every = 2 * leak_probe.WAYS * leak_probe.SETS
    assert found["published"].hits > 0.9 * every, found
    assert not found["published"].at_chance
