"""Read, write and run the BRIDGE authors' checkpoints as their code does (docs/method.md 7.1 to 7.3).

Their state dict is `model.safetensors`, whose keys are exactly those of a model that was just built, so that it loads
with strict=True. Their first forward pass creates the position biases; these are in `position_biases.safetensors`
beside it, for a model that has run once.

All parameters convert between their model and ours, except those that read other states: see `to_ours` and `to_theirs`.
"""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from bridge_jax import paths
from bridge_jax.config import Config, ConfigError
from bridge_jax.interop import hf_import, names_authors, torch_export
from bridge_jax.interop.names import Entry
from bridge_jax.models import heads, interaction, layers, towers, vit
from bridge_jax.step.params import init_params
from bridge_jax.types import Array, Params
from bridge_jax.workdir.checkpoint import Checkpoints

WEIGHTS, BIASES = "model.safetensors", "position_biases.safetensors"
_BUFFERS = r"text_encoder\.bert\.embeddings\.(position_ids|token_type_ids)"
_ALPHA = 0.5  # start value in their code; its sigmoid is 0.62
_README = """\
# A BRIDGE checkpoint in the layout of the authors' code

`model.safetensors` is the state dict of their model as it is built; it loads with `strict=True`.
`position_biases.safetensors` holds the biases that their blocks create in the first forward pass: load it after one,
with `strict=False`.

Drawn anew, because their heads read other states than the model this comes from: {fresh}.
"""


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The results of their forward pass for B pairs. Embeddings have length one."""

    unimodal_image: Array  # [B,E]
    unimodal_text: Array  # [B,E]
    fused_image: Array  # [B,E]
    fused_text: Array  # [B,E]
    itm_logits: Array  # [B,2]: no match, match


def check(cfg: Config) -> None:
    """Raise ConfigError if a config is not of their architecture."""
    for key, got, expected in (
        ("bridge.design", cfg.bridge.design, "cross"),
        ("bridge.placement", cfg.bridge.placement, "after"),
        ("vision.tower", cfg.vision.tower, "vit"),
        ("vision.layer_scale", cfg.vision.layer_scale, False),
        ("text.tower", cfg.text.tower, "bert"),
    ):
        if got != expected:
            raise ConfigError(f"config.{key}: expected {expected!r}, as in the authors' model, got {got!r}")
    if "token_itc" in cfg.losses:
        raise ConfigError(
            "config.losses.token_itc: the authors' match head reads no tokens; export this model in our own layout"
        )


def read(source: str | Path, cfg: Config) -> tuple[Params, list[str]]:
    """Return their parameters under the paths of `names_authors`, and notes on the position biases.

    `source` is a safetensors file, or a folder with model.safetensors. A position bias for other numbers of tokens is
    resized; one that is not stored is zero. Raises ConfigError naming the file or the tensor.
    """
    check(cfg)
    source = Path(source).expanduser()
    file = source / WEIGHTS if source.is_dir() else source
    if file.suffix != ".safetensors" or not file.is_file():
        raise ConfigError(
            f"{file}: expected a safetensors file. A .pt or .bin runs code when it is opened, so it is never read: "
            "save the state dict with safetensors.torch.save_file"
        )
    tensors = hf_import.read_tensors(file, source)
    if (file.parent / BIASES).is_file():
        tensors |= hf_import.read_tensors(file.parent / BIASES, source)
    sections = cfg.vision, cfg.text, cfg.bridge
    params, unfilled, notes = {}, [], []
    for entry in names_authors.entries(*sections):
        if entry.name in tensors:
            params[entry.path] = hf_import.to_ours(entry, entry.name, tensors.pop(entry.name), source)
        else:
            unfilled.append(entry.path)
    for entry in names_authors.position_biases(*sections):
        stored = tensors.pop(entry.name, None)
        params[entry.path], note = _position_bias(entry, stored, source)
        notes += note
    hf_import.all_used(source, [name for name in tensors if not re.fullmatch(_BUFFERS, name)], unfilled)
    return paths.unflatten(params), notes


def write(out: str | Path, cfg: Config, params: Params, fresh: Iterable[str] = ()) -> None:
    """Write the folder `out`, whole or not at all; `params` as `read` returns them. Raises ConfigError.

    `fresh`: paths of parameters that were drawn, named in its README.
    """
    check(cfg)
    flat = paths.flatten(params)
    sections = cfg.vision, cfg.text, cfg.bridge
    with torch_export.new_folder(out) as folder:
        (folder / "README.md").write_text(_README.format(fresh=", ".join(fresh) or "nothing"), encoding="utf-8")
        for file, table in ((WEIGHTS, names_authors.entries), (BIASES, names_authors.position_biases)):
            tensors = {e.name: e.to_stored(np.asarray(flat[e.path], np.float32)) for e in table(*sections)}
            torch_export.save_tensors(tensors, folder / file)


def forward(
    cfg: Config,
    params: Params,
    images: UInt8[Array, "B H W 3"],
    ids: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
) -> Outputs:
    """Run their forward pass, dropout off, with `params` as `read` returns them.

    The blocks follow both finished towers. The cross embeddings pool the *input* projections of the last block, so its
    update is not used. Means of texts are over their real tokens, but the blocks read padding too: only the text
    tower's own attention is masked.
    """
    dtype, every = jnp.dtype("float32"), jnp.ones_like(mask)

    def image_tower(tower: Any, pixels: Array) -> Array:
        return tower.finish(tower.blocks(tower.embed(pixels), 0, cfg.vision.depth, True))

    def text_tower(tower: Any, ids: Array) -> Array:
        return tower.finish(tower.blocks(tower.embed(ids, True), mask, 0, cfg.text.depth, True))

    tower = towers.tower_class("vision", cfg.vision.tower)(dataclasses.replace(cfg.vision, mask_token=False), dtype)
    image: Any = tower.apply({"params": params["vision"]}, towers.normalise(images, cfg), method=image_tower)
    tower = towers.tower_class("text", cfg.text.tower)(cfg.text, dtype)
    text: Any = tower.apply({"params": params["text"]}, ids, method=text_tower)

    def embed(name: str, states: Array, real: Array | None = None) -> Any:
        head = heads.Projection(cfg.bridge.embed_width)
        return head.apply({"params": params["heads"][name]}, layers.masked_mean(states, real))

    unimodal = embed("unimodal_image", image), embed("unimodal_text", text, mask)
    block = interaction.Interaction(cfg.bridge, dtype)
    for q in range(cfg.bridge.layers - 1):
        image, text = _apply(block, params["bridge"][f"layer_{q}"], image, text, every, True)[:2]
    last = params["bridge"][f"layer_{cfg.bridge.layers - 1}"]
    fused = [
        embed("fused_image", _to_shared(cfg, last, "image", image)),
        embed("fused_text", _to_shared(cfg, last, "text", text), mask),
    ]
    cosine = (fused[0] * fused[1]).sum(axis=-1, keepdims=True)
    joined = jnp.concatenate([fused[1], fused[0], cosine], axis=-1)
    itm = params["heads"]["itm"]
    hidden = jax.nn.relu(_apply(layers.dense(cfg.bridge.embed_width, dtype), itm["hidden"], joined))
    return Outputs(*unimodal, *fused, itm_logits=_apply(layers.dense(2, dtype), itm["out"], hidden))


def to_ours(cfg: Config, theirs: Params) -> tuple[Params, list[str]]:
    """Return parameters of our model, and the paths that could not come from theirs.

    Towers, blocks, unimodal projections, masked heads and the scale are copied. Our fused projections read the updated
    states and theirs the shared width, so ours become copies of the unimodal ones, and the match head starts as the
    scaled cosine (docs/method.md 3.5).
    """
    ours, stored = paths.flatten(init_params(cfg)), paths.flatten(theirs)
    fresh = [p for p in ours if p not in stored or stored[p].shape != ours[p].shape or _means_another(cfg, p)]
    params = {path: jnp.asarray(value if path in fresh else stored[path]) for path, value in ours.items()}
    for path in fresh:
        if path.startswith("heads/fused_"):
            params[path] = params[path.replace("fused", "unimodal")]
    params["heads/itm/scale"] = jnp.exp(params["heads/log_scale"])
    return paths.unflatten(params), fresh


def to_theirs(cfg: Config, ours: Params, seed: int = 0) -> tuple[Params, list[str]]:
    """Return parameters in their form, and the paths that could not come from ours.

    Those kernels are drawn from `seed` with standard deviation 0.02; scales start at one, `alpha` at 0.5, others at
    zero. Raises ConfigError if the config is not of their architecture.
    """
    check(cfg)
    draw, stored, params, fresh = np.random.default_rng(seed), paths.flatten(ours), {}, []
    sections = cfg.vision, cfg.text, cfg.bridge
    for entry in (*names_authors.entries(*sections), *names_authors.position_biases(*sections)):
        path = entry.path
        if path in stored and stored[path].shape == entry.shape and not _means_another(cfg, path):
            params[path] = np.asarray(stored[path])
            continue
        fresh.append(path)
        if path.endswith("/kernel"):
            params[path] = draw.normal(scale=0.02, size=entry.shape).astype(np.float32)
        else:
            start = 1.0 if path.endswith("/scale") else _ALPHA if path.endswith("/alpha") else 0.0
            params[path] = np.full(entry.shape, start, np.float32)
    return paths.unflatten(params), fresh


def export(saves: Checkpoints, step: int, out: str | Path) -> list[str]:
    """Write one of our checkpoints to the new folder `out`; return the paths that were drawn. Raises ConfigError."""
    cfg = saves.config(step)
    check(cfg)
    theirs, fresh = to_theirs(cfg, torch_export.restore(saves, step))
    write(out, cfg, theirs, fresh)
    return fresh


def to_checkpoint(source: str | Path, cfg: Config, workdir: str | Path) -> list[str]:
    """Make the new folder `workdir` with one checkpoint of our model, at step 1.

    Return notes on resized position biases and on parameters that start fresh. The blocks count as trained, so that a
    run that starts from the checkpoint keeps them. Raises ConfigError.
    """
    torch_export.check_new(workdir)
    theirs, notes = read(source, cfg)
    params, fresh = to_ours(cfg, theirs)
    with torch_export.new_folder(workdir) as folder:
        saves = Checkpoints(folder)
        saves.save(1, cfg.stage_order[0], params, None, cfg, fused_trained=True)
        saves.close()
    return [*notes, f"started fresh: {', '.join(fresh)}"]


def _means_another(cfg: Config, path: str) -> bool:
    """Return whether a path has another meaning in their model, even if the shapes are equal."""
    pixels = path.startswith("heads/mim/out/") and "mim" in cfg.losses and cfg.losses["mim"]["target"] == "pixels"
    return pixels or bool(re.match("heads/(fused_image|fused_text|itm)/", path))


def _apply(module: Any, params: Params, *inputs: Any) -> Any:
    return module.apply({"params": params}, *inputs)


def _to_shared(cfg: Config, layer: Params, side: str, states: Array) -> Float[Array, "B L S"]:
    """Return LN(H) W_s, the first step of a block."""
    dtype = jnp.dtype("float32")
    normed = _apply(layers.layer_norm(interaction.NORM_EPS, dtype), layer[f"{side}_norm"], states)
    return _apply(layers.dense(cfg.bridge.shared_width, dtype), layer[f"{side}_to_shared"], normed)


def _position_bias(entry: Entry, stored: np.ndarray | None, source: Path) -> tuple[np.ndarray, list[str]]:
    """Return the bias in the shape of `entry`, and a note if it is not the stored one."""
    if stored is None:
        return np.zeros(entry.shape, np.float32), [f"{entry.name} is not stored: zero"]
    if stored.shape == entry.shape:
        return entry.to_ours(stored), []
    text_first = entry.path.endswith("text_over_image/position_bias")
    bias_TP = stored if text_first else stored.T
    T, P = entry.shape if text_first else entry.shape[::-1]
    sides = [round((tokens - 1) ** 0.5) for tokens in (bias_TP.shape[-1], P)]
    if bias_TP.ndim != 2 or 1 + sides[0] ** 2 != bias_TP.shape[1]:
        raise ConfigError(
            f"{source}: tensor {entry.name!r} has shape {stored.shape}; expected {entry.shape}, or one for another "
            "square grid of patches"
        )
    resized = np.asarray(vit.resize_positions(jnp.asarray(bias_TP.T[None]), (sides[1], sides[1])))[0].T[:T]
    resized = np.pad(resized, ((0, T - len(resized)), (0, 0)))
    note = f"{entry.name} resized from {stored.shape} to {entry.shape}"
    return np.ascontiguousarray(resized if text_first else resized.T), [note]
