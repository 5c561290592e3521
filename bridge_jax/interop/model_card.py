"""Write the model card of an exported folder from the run that made it."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import huggingface_hub
import jax
import jax.numpy as jnp

from bridge_jax.config import Config
from bridge_jax.interop import hf_import
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step import flops
from bridge_jax.step.params import param_shapes
from bridge_jax.types import Lower
from bridge_jax.workdir.checkpoint import Checkpoints
from bridge_jax.workdir.log import read

DIRECTIONS, SCORES = ("text_to_image", "image_to_text"), ("unimodal", "rerank")
_HEAD = {
    "library_name": "transformers",
    "pipeline_tag": "zero-shot-image-classification",
    "tags": ["bridge", "sentence-transformers", "image-text-retrieval"],
}
_USE = """\
```python
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(FOLDER, trust_remote_code=True)
inputs = processor(images=["a.jpg", "b.jpg"], text=["a dog", "a house", "two people"])
images = model.get_image_features(inputs["pixel_values"])  # [2,{width}], of length one
texts = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])  # [3,{width}]
cosines = images @ texts.T  # the order of a search
scores = model.match(**inputs).scores  # [2,3]: the order after the bridge has looked at every pair
```
"""

_RECALLS = """\
R@k is the percent of queries with a right answer among the best k of {gallery}, with 95 % bootstrap intervals
over photos; ties count against the model. In `text_to_image` a caption seeks its photo, in `image_to_text` a photo any
of its captions. `unimodal` orders by the cosine of the embeddings; in `rerank` the bridge then orders {best} anew.

"""


def card(cfg: Config, saves: Checkpoints, step: int) -> str:
    """Return the README.md of an export: the model, its training, its scores and the licences."""
    meta = saves.meta(step)
    vision, text, bridge = cfg.vision, cfg.text, cfg.bridge
    towers = {"image": vision.pretrained, "text": text.pretrained}
    scored = _scored(cfg, saves, step)
    return f"""---
{_head(cfg, scored)}
---

# BRIDGE, trained on {cfg.data.dataset}

An image and a text tower whose hidden states meet in {bridge.layers} interaction layers (design `{bridge.design}`,
placement `{bridge.placement}`): *Bridging Hidden States in Vision-Language Models*, arXiv 2511.11526, trained with
bridge_jax. Pictures of {vision.image_px} x {vision.image_px} pixels, captions of at most {text.length} tokens.

{_USE.format(width=bridge.embed_width)}
## Training

| | |
| --- | --- |
| data | {cfg.data.dataset}, split `{cfg.data.train_split}`; chosen on `{cfg.data.eval_split}` |
| checkpoint | step {step}, stage `{meta.stage}` of {", ".join(f"`{name}`" for name in cfg.stage_order)} |
| losses | {"; ".join(f"`{stage.name}`: {', '.join(stage.losses)}" for stage in cfg.run_stages)} |
| image tower | {_tower(vision.pretrained, vision.depth, vision.width)}, patches of {vision.patch_px} pixels |
| text tower | {_tower(text.pretrained, text.depth, text.width)} |
| bridge | width {bridge.shared_width}, {bridge.heads} heads; embeddings of {bridge.embed_width} |
| seed, compute type | {cfg.seed}, {cfg.compute_dtype} |

The whole config is in `config.json` under `bridge_jax`; `python -m tools.import_hf` makes a checkpoint of this folder.

## Numbers

{_numbers(cfg, scored)}
## Cost

{_cost(cfg)}
## Licence

{"".join(_licence(side, source) for side, source in towers.items())}- Data: {cfg.data.dataset}, under its own terms.
"""


def _cost(cfg: Config) -> str:
    """Say what a query costs, in the FLOPs of its matrix products and convolutions."""
    model, params = BridgeModel(cfg), {"params": param_shapes(cfg)}
    px, length = cfg.vision.image_px, cfg.text.length
    pixels = jax.ShapeDtypeStruct((1, px, px, 3), jnp.uint8)
    ids, mask = jax.ShapeDtypeStruct((1, length), jnp.int32), jax.ShapeDtypeStruct((1, length), jnp.bool_)

    def shapes(method: Callable, *inputs: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.eval_shape(nn.apply(method, model), params, *inputs)

    def giga(method: Callable, *inputs: Any) -> float:
        return flops.flops_of(jax.jit(nn.apply(method, model)), params, *inputs) / 1e9

    photo = giga(lambda model, pixels: model.unimodal_image(model.lower_image(pixels)), pixels)
    text = giga(lambda model, ids, mask: model.unimodal_text(model.lower_text(ids, mask), mask), ids, mask)
    embedded = f"To embed a text takes {text:.3g} GFLOP; to embed a photo, once for all queries, {photo:.3g}.\n"
    if cfg.bridge.design == "none":
        return embedded
    image = shapes(BridgeModel.lower_image, pixels)
    pair = giga(BridgeModel.fused, Lower(image, shapes(BridgeModel.lower_text, ids, mask), mask))
    again = giga(BridgeModel.lower_image, pixels)
    best = cfg.evals["retrieval"].rerank_top_k if "retrieval" in cfg.evals else 16
    return f"""\
{embedded}To order a query's best {best} photos anew, by the bridge, takes {best} x {pair:.3g} = {best * pair:.3g} GFLOP
more. That is so where the states of photos below the bridge are kept, {2 * image.size / 1e3:.3g} kB a photo, as
`tools.search` does. From pixels, as `match` above, it takes {best} x {again:.3g} = {best * again:.3g} GFLOP beside
that. Matrix products and convolutions are counted.
"""


def _tower(source: str, depth: int, width: int) -> str:
    return f"{Path(source).name or 'from random weights'}, {depth} blocks of width {width}"


def _licence(side: str, source: str) -> str:
    if not source:
        return f"- The {side} tower was trained from random weights.\n"
    local = Path(source).expanduser().is_dir()
    page = "see where it came from" if local else f"see https://huggingface.co/{source}"
    licence = hf_import.licence(source) or f"unknown here, {page}"
    return f"- The {side} tower started from {Path(source).name if local else source}: {licence}.\n"


class _Scored(NamedTuple):
    """The numbers of a checkpoint."""

    entry: Mapping[str, float]  # of the log
    prefixes: Mapping[str, str]  # split -> how the names of its numbers begin
    whole: bool  # whether they were scored at the end of the run, on whole splits


def _scored(cfg: Config, saves: Checkpoints, step: int) -> _Scored | None:
    """Return the numbers of a checkpoint; None where it was not scored."""
    log = saves.folder.parent / "metrics.jsonl"
    entries = read(log) if log.is_file() else []
    # A finished run scores its best checkpoint last and logs that table at its last step.
    last = saves.latest()
    final = [e for e in entries if e["step"] == last and any(name.startswith("final/") for name in e)]
    during = [e for e in entries if e["step"] == step and any(name.startswith("eval/") for name in e)]
    if final and step == saves.best():
        names = [name for name in final[-1] if name.startswith("final/")]
        prefixes = {name.split("/")[1]: "/".join(name.split("/")[:2]) + "/" for name in names}
        return _Scored(final[-1], prefixes, whole=True)
    return _Scored(during[-1], {cfg.data.eval_split: "eval/"}, whole=False) if during else None


def _head(cfg: Config, scored: _Scored | None) -> str:
    """Return the card's metadata. Its `model-index` tells the hub the numbers."""
    if scored is None or not (results := _results(cfg.data.dataset, scored)):
        return huggingface_hub.ModelCardData(**_HEAD).to_yaml()
    name = f"BRIDGE, trained on {cfg.data.dataset}"
    return huggingface_hub.ModelCardData(**_HEAD, model_name=name, eval_results=results).to_yaml()


def _results(dataset: str, scored: _Scored) -> list[huggingface_hub.EvalResult]:
    """Return the recalls and accuracies that the card shows, in percent."""
    named = [(split, prefix, name) for split, prefix in scored.prefixes.items() for name in scored.entry]
    return [
        huggingface_hub.EvalResult(
            task_type=task,
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type="accuracy" if name.endswith("accuracy") else "recall",
            metric_name=name.removeprefix(prefix),
            metric_value=round(scored.entry[name], 2),
        )
        for split, prefix, name in named
        if name.startswith(prefix) and (task := _task(name.removeprefix(prefix)))
    ]


def _task(name: str) -> str:
    """Return the hub's name of the task that a number is of; empty for numbers that the card does not show."""
    if re.fullmatch(rf"({'|'.join(SCORES)})/({'|'.join(DIRECTIONS)})/r@(1|5|10)", name):
        return "image-text-retrieval"
    return "visual-question-answering" if re.fullmatch(r"vqa/(.+/)?accuracy", name) else ""


def _numbers(cfg: Config, scored: _Scored | None) -> str:
    if scored is None:
        return "This checkpoint was not scored.\n"
    prefixes, entry = scored.prefixes, scored.entry
    recalls = [line for split, prefix in prefixes.items() for line in _recalls(split, prefix, entry)]
    accuracies = [line for split, prefix in prefixes.items() for line in _accuracies(split, prefix, entry)]
    parts = []
    if recalls:
        parts.append(_explained(cfg, scored.whole))
        parts.append("| split | direction | score | R@1 [95 %] | R@5 | R@10 | median rank |\n")
        parts += ["| --- | --- | --- | --- | --- | --- | --- |\n", *recalls, "\n"]
    if accuracies:
        parts.append("Accuracy of the answers in percent, by the official rule of VQA v2, likewise.\n\n")
        parts += ["| split | questions | accuracy [95 %] |\n", "| --- | --- | --- |\n", *accuracies, "\n"]
    if cfg.data.eval_split in prefixes:
        parts.append(f"The checkpoint was chosen on `{cfg.data.eval_split}`, so its numbers there flatter it.\n")
    return "".join(parts)


def _explained(cfg: Config, whole: bool) -> str:
    """Say what the recalls are of; `whole`: they were scored at the end of the run, on whole splits."""
    gallery, best = "the whole split", "the best candidates"
    if "retrieval" in cfg.evals:
        settings = cfg.evals["retrieval"]
        best = f"the best {settings.rerank_top_k}"
        if settings.select_images and not whole:
            gallery = f"the first {settings.select_images} photos of the split"
    return _RECALLS.format(gallery=gallery, best=best)


def _recalls(split: str, prefix: str, entry: Mapping[str, float]) -> list[str]:
    rows = []
    for direction in DIRECTIONS:
        for score in SCORES:
            key = f"{prefix}{score}/{direction}/"
            if f"{key}r@1" not in entry:
                continue
            one, low, high = (entry[f"{key}r@1{part}"] for part in ("", "_low", "_high"))
            rest = f"{entry[f'{key}r@5']:.1f} | {entry[f'{key}r@10']:.1f} | {entry[f'{key}median_rank']:g}"
            rows.append(f"| {split} | {direction} | {score} | {one:.1f} [{low:.1f}, {high:.1f}] | {rest} |\n")
    return rows


def _accuracies(split: str, prefix: str, entry: Mapping[str, float]) -> list[str]:
    rows = []
    for name in sorted(entry):
        if name.startswith(f"{prefix}vqa/") and name.endswith("/accuracy"):
            kind = name.removeprefix(f"{prefix}vqa/").removesuffix("accuracy").rstrip("/") or "all"
            value, low, high = (entry[name + end] for end in ("", "_low", "_high"))
            rows.append(f"| {split} | {kind} | {value:.1f} [{low:.1f}, {high:.1f}] |\n")
    return rows
