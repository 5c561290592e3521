"""The start of the bridge: take over the towers' alignment before a stage first trains the fused parts."""

import jax
import jax.numpy as jnp

from bridge_jax import rng
from bridge_jax.config import Config, objectives
from bridge_jax.types import Params


def start_fused(cfg: Config, params: Params) -> Params:
    """Return parameters whose bridge starts from the towers' alignment (docs/method.md 3.5 and 5.13).

    Called when a stage begins whose fused parts were never trained. The fused projections become copies of the unimodal
    ones: with gates nearly closed the fused score is the unimodal score, and training only has to improve on it.

    The attention starts there too; the method draws it at random. A unimodal cosine is a mean over all tokens
    and patches of <W_t h_t, W_v h_v>, so the unimodal projections have already learned which word goes with which
    patch. The first E columns of both maps into the shared width become W G with one random rotation G (so that every
    head sees a share of all directions), queries and keys the identity: a word's attention over the patches starts as
    its own cosines. The other columns stay random and carry what the embeddings leave out, such as where things are.
    The first layer is left alone if a loss (`token_itc`) trains what it compares.
    """
    heads = params["heads"]
    copies = {f"fused_{side}": jax.tree.map(jnp.copy, heads[f"unimodal_{side}"]) for side in ("image", "text")}
    scale = jnp.exp(heads["log_scale"])
    started = {**params, "heads": {**heads, **copies, "itm": {**heads["itm"], "scale": scale}}}
    if cfg.bridge.layers:
        kept = {"layer_0"} if any("compared" in objectives.needs(name).passes for name in cfg.losses) else set()
        started["bridge"] = {
            name: layer if name in kept else _start_attention(cfg, params, layer)
            for name, layer in params["bridge"].items()
        }
    return started


def _start_attention(cfg: Config, params: Params, layer: Params) -> Params:
    E, S = cfg.bridge.embed_width, cfg.bridge.shared_width
    rotation = jax.random.orthogonal(rng.key(cfg.seed, "start", 0), E)[:, : min(E, S)]
    layer = dict(layer)
    for side in ("image", "text"):
        aligned = jax.tree.map(lambda leaf: leaf @ rotation, params["heads"][f"unimodal_{side}"]["linear"])
        drawn = layer[f"{side}_to_shared"]
        layer[f"{side}_to_shared"] = jax.tree.map(
            lambda new, old: jnp.concatenate([new, old[..., new.shape[-1] :]], axis=-1), aligned, drawn
        )
    if cfg.bridge.placement != "after":  # there the states have been through the tower's final norm
        layer["image_norm"] = jax.tree.map(jnp.copy, params["vision"]["norm"])
        if "final_norm" in params["text"]:  # a post-norm tower has none, and its states are normalised
            copied = jax.tree.map(jnp.copy, params["text"]["final_norm"])
            layer["text_norm"] = {**layer["text_norm"], **copied}
    for direction in ("text_over_image", "image_over_text"):
        identity = {name: {"kernel": jnp.eye(S), "bias": jnp.zeros(S)} for name in ("query", "key")}
        if "query" in layer[direction]:  # the pooled design has none
            layer[direction] = {**layer[direction], **identity}
    return layer
