"""Every trainable parameter learns, every frozen one stays put.

The authors' last interaction layer was dead: 26 of its 34 tensors got no gradient (docs/method.md 5.4).
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax import paths
from bridge_jax.step import forward, sharding, train_step, weighting
from tests import tiny

# softmax(q (k + b)) = softmax(q k + q b): the bias of the keys adds the same to all logits of a query, so its true
# gradient is zero. Not so in the bridge's own attention, whose keys are scaled to length one after the bias.
SHIFT_INVARIANT = ("attention/key/bias",)
DESIGNS = ("pooled", "self_cross", "cross")
CASES = [  # one layer "staggered" is one at the top
    *(("cross", placement) for placement in ("top", "middle", "early", "after")),
    *(("pooled", placement) for placement in ("top", "after")),
    *(("self_cross", placement) for placement in ("middle", "after")),
    ("none", "top"),
]


def config(design: str, placement: str):
    """Return towers of 4 and 3 blocks and one interaction layer after the first, the second or the last of the 3."""
    names = tuple(name for name in tiny.LOSSES if name != "cycle" or design in ("self_cross", "cross"))
    return tiny.config(
        bridge=dict(design=design, placement=placement, layers=0 if design == "none" else 1),
        stage=dict(losses=names),
    )


def gradients(cfg):
    """Return path -> the largest entry of the gradient of the stage's total loss. ALL parameters are random."""
    flat, batch = paths.flatten(tiny.params(cfg)), tiny.batch(cfg)

    def total(flat):
        params = paths.unflatten(flat)
        outputs = tiny.outputs(cfg, params, batch, forward.passes_of(cfg.stages["train"].losses))
        return weighting.combine(cfg, cfg.stages["train"].losses, params, outputs, batch)[0]

    return {path: np.abs(np.asarray(value)).max() for path, value in jax.grad(total)(flat).items()}


@pytest.mark.parametrize(("design", "placement"), CASES)
def test_every_parameter_gets_a_gradient(design, placement):
    largest = gradients(config(design, placement))
    excused = {path for path in largest if path.endswith(SHIFT_INVARIANT)}
    dead = {path: size for path, size in largest.items() if path not in excused and not size > 1e-5}
    assert not dead
    assert excused
    assert max(largest[path] for path in excused) < 1e-6


def test_every_parameter_gets_a_gradient_through_two_layers_with_learned_weights():
    """Two layers with a tower block between them, MIM on features, and the losses' own weights."""
    cfg = tiny.config(loss_weighting="learnable", losses=dict(mim=dict(weight=1.0, target="features")))
    largest = gradients(cfg)
    dead = [path for path, size in largest.items() if not path.endswith(SHIFT_INVARIANT) and not size > 1e-5]
    assert not dead
    assert {path for path in largest if path.startswith("loss_weights/")} == {f"loss_weights/{n}" for n in tiny.LOSSES}


@pytest.mark.parametrize("design", DESIGNS)
def test_questions_give_every_parameter_below_their_head_a_gradient(design):
    """Except the heads of the contrastive losses, which no answer reads."""
    cfg = tiny.config(bridge=dict(design=design, layers=1), stage=dict(losses=("vqa",)))
    largest = gradients(cfg)
    other_heads = ("heads/fused_", "heads/unimodal_", "heads/itm/", "heads/log_scale")
    live = {path for path in largest if not path.startswith(other_heads) and not path.endswith(SHIFT_INVARIANT)}
    assert {path for path in live if path.startswith("heads/")} == {path for path in largest if "/vqa/" in path}
    assert not {path: largest[path] for path in live if not largest[path] > 1e-5}


@pytest.mark.parametrize(("loss", "reads"), [("caption", "image"), ("caption", "fused"), ("vqa_generative", "fused")])
def test_words_give_every_parameter_that_the_decoder_reads_a_gradient(loss, reads):
    """With `image`, the text tower and the bridge get none; all of the decoder's own parameters get one."""
    cfg = tiny.config(bridge=dict(layers=1), stage=dict(losses=(loss,)), decoder=dict(reads=reads))
    largest = gradients(cfg)
    towers = ("vision/",) if reads == "image" else ("vision/", "text/", "bridge/")
    live = {path for path, value in largest.items() if value > 1e-6}
    wanted = {path for path in largest if path.startswith(("decoder/", *towers))}
    assert {path for path in wanted - live if not path.endswith(SHIFT_INVARIANT)} == set()
    assert live <= wanted


@pytest.mark.parametrize("pictures", [1, 2])
def test_statements_give_every_parameter_below_their_head_a_gradient(pictures):
    """Except the heads that no judgement reads: those of the unimodal embeddings and of the match."""
    cfg = tiny.config(
        bridge=dict(layers=1), stage=dict(losses=("nlvr2",)), losses=dict(nlvr2=dict(weight=1.0, pictures=pictures))
    )
    largest = gradients(cfg)
    other_heads = ("heads/unimodal_", "heads/itm/", "heads/log_scale")
    live = {path for path in largest if not path.startswith(other_heads) and not path.endswith(SHIFT_INVARIANT)}
    assert any(path.startswith("heads/nlvr2/") for path in live)
    assert not {path: largest[path] for path in live if not largest[path] > 1e-6}


FROZEN_TOWERS = (("(vision|text)/.*", False), ("(bridge|heads)/.*", True))


@pytest.mark.parametrize(
    ("top_blocks", "opened"),
    [(0, "(bridge|heads)/.*"), (1, "(bridge|heads)/.*|vision/(block_02|norm)/.*|text/block_01/.*")],
    ids=["by rules", "by rules and top_blocks"],
)
def test_a_step_moves_what_trains_and_nothing_else(top_blocks, opened):
    """A real step, with clipping and decay: frozen leaves are equal bit for bit, all others differ."""
    cfg = tiny.config(
        vision=dict(depth=3),
        text=dict(depth=2),
        bridge=dict(layers=1),
        stage=dict(
            losses=("itc", "fused_itc", "itm", "cycle"),
            train=FROZEN_TOWERS,
            top_blocks=top_blocks,
            warmup_fraction=0.0,
            learning_rate=1e-2,
        ),
    )
    params = tiny.params(cfg)
    before = {path: np.asarray(value) for path, value in paths.flatten(params).items()}
    stage_step = train_step.build(cfg, cfg.stages["train"], 0, sharding.make_mesh(cfg.mesh))
    state, metrics = stage_step.train_step(stage_step.init(jnp.int32(0), params), tiny.batch(cfg))
    assert metrics["healthy"]
    assert state.step == 1
    after = paths.flatten(state.params)
    assert after.keys() == before.keys()
    for path, value in before.items():
        if not re.fullmatch(opened, path):
            np.testing.assert_array_equal(after[path], value, err_msg=path)
        elif not path.endswith(SHIFT_INVARIANT):
            assert np.abs(np.asarray(after[path]) - value).max() > 1e-3, path
    assert set(stage_step.trainable) == {path for path in before if re.fullmatch(opened, path)}
