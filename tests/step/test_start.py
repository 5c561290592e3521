"""The bridge starts from the towers' alignment: its scores, its attention, every design."""

import jax
import numpy as np
import pytest

from bridge_jax import paths
from bridge_jax.step import sharding
from bridge_jax.step.params import init_params
from bridge_jax.step.predict import build_predict
from bridge_jax.step.start import start_fused
from bridge_jax.types import Lower
from tests import tiny


def test_started_fused_heads_rank_as_the_towers_do():
    """docs/method.md 3.5: with gates nearly closed the fused score *is* the unimodal score."""
    cfg = tiny.config(bridge=dict(gate_start=1e-6), stage=dict(losses=("itc", "fused_itc", "itm", "cycle")))
    params, batch = init_params(cfg), tiny.batch(cfg, 6)
    flat = paths.flatten(params)
    drawn = paths.flatten(tiny.params(cfg))
    params = paths.unflatten({k: drawn[k] if k.startswith(("vision", "text")) or "unimodal" in k else v
                              for k, v in flat.items()})  # fmt: skip
    started = start_fused(cfg, params)
    low = tiny.lower(cfg, started, batch)
    texts, images = np.repeat(np.arange(6), 6), np.tile(np.arange(6), 6)
    pairs = Lower(image=low.image[images], text=low.text[texts], text_mask=low.text_mask[texts])
    predict = build_predict(cfg, sharding.make_mesh(cfg.mesh))
    unimodal = predict.unimodal_text(started, low.text, low.text_mask) @ predict.unimodal_image(started, low.image).T
    similarity, logit = (np.asarray(x).reshape(6, 6) for x in predict.fused(started, pairs))
    np.testing.assert_allclose(similarity, unimodal, atol=1e-4)
    np.testing.assert_array_equal(np.argsort(logit, axis=1), np.argsort(unimodal, axis=1))
    start = cfg.bridge.logit_scale_start
    np.testing.assert_allclose(logit + start * cfg.bridge.match_threshold_start, start * similarity, rtol=1e-4)
    untouched = np.asarray(predict.fused(params, pairs)[0]).reshape(6, 6)
    assert np.abs(untouched - unimodal).max() > 0.1
    for path, value in paths.flatten(started).items():
        if not path.startswith(("heads/fused_", "heads/itm/scale", "bridge/")):
            np.testing.assert_array_equal(value, paths.flatten(params)[path], err_msg=path)


def test_started_attention_is_the_cosine_of_projected_words_and_patches():
    cfg = tiny.config(bridge=dict(heads=1, shared_width=24, embed_width=24, layers=1, tau_start=0.3))
    params, batch = tiny.params(cfg), tiny.batch(cfg, 3)
    params["bridge"] = init_params(cfg)["bridge"]
    started = start_fused(cfg, params)
    low = tiny.lower(cfg, started, batch)
    attention = tiny.apply(cfg, started, lambda model: model.fused(low)).text_over_image[0]

    params = jax.device_get(params)

    def project(states, side, norm):
        centred = states - states.mean(-1, keepdims=True)
        y = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * norm["scale"] + norm["bias"]
        head = params["heads"][f"unimodal_{side}"]["linear"]
        z = y @ head["kernel"] + head["bias"]
        return z / np.linalg.norm(z, axis=-1, keepdims=True)

    words = project(np.asarray(low.text), "text", {"scale": 1.0, "bias": 0.0})
    patches = project(np.asarray(low.image), "image", params["vision"]["norm"])
    raised = np.exp(np.einsum("BTE,BPE->BTP", words, patches) / 0.3)
    np.testing.assert_allclose(attention, raised / raised.sum(-1, keepdims=True), atol=1e-5)


def test_a_shared_space_wider_than_the_embedding_stays_random_beyond_it():
    cfg = tiny.config(bridge=dict(shared_width=24, embed_width=16))
    params = tiny.params(cfg)
    layers = [tree["bridge"]["layer_0"]["image_to_shared"] for tree in (params, start_fused(cfg, params))]
    kernels = [np.asarray(layer["kernel"]) for layer in layers]
    np.testing.assert_array_equal(kernels[0][:, 16:], kernels[1][:, 16:])
    learned = np.asarray(params["heads"]["unimodal_image"]["linear"]["kernel"])
    np.testing.assert_allclose(kernels[1][:, :16] @ kernels[1][:, :16].T, learned @ learned.T, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [dict(design="pooled"), dict(design="none", layers=0), dict(placement="after"), dict(embed_width=40)]
)
def test_every_design_starts(changes):
    cfg = tiny.config(bridge=changes, stage=dict(losses=("itc",)))
    params = tiny.params(cfg)
    before, after = (jax.tree.map(np.shape, tree) for tree in (params, start_fused(cfg, params)))
    assert before == after
