"""Write a trained model as StableHLO programs, which run on CPU, GPU and TPU without this package and without Flax.

    image_embedding.bin    images uint8 [b,H,W,3] -> embeddings float32 [b,E], of length one
    text_embedding.bin     ids int32 [b,T], mask bool [b,T] -> embeddings float32 [b,E]
    match.bin              images, ids, mask: row i with row i -> (match logits [b], scores [b])
    weights.safetensors    float32, stored once under our paths: the first argument of all three programs, as a dict
    tokenizer.json, signature.json, README.md

Each program is one of `jax.export` for all platforms and every batch size b; the bytes of its StableHLO are
`jax.export.deserialize(...).mlir_module_serialized`. The programs normalise the pixels. Evaluation reranks by the
scores: logit + rerank_weight x logit scale x cosine.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from bridge_jax import paths
from bridge_jax.config import Config, evaluators
from bridge_jax.data import text
from bridge_jax.interop import torch_export
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.types import Lower, Params
from bridge_jax.workdir.checkpoint import Checkpoints

PLATFORMS = ("cpu", "cuda", "tpu")
WEIGHTS, SIGNATURE = "weights.safetensors", "signature.json"
_README = """\
# A BRIDGE model as StableHLO

Written by bridge_jax for {platforms}, for every batch size. It needs `jax`, `safetensors` and, for captions,
`tokenizers`.

```python
import jax, numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

weights = load_file("FOLDER/weights.safetensors")
image_embedding, text_embedding, match = (
    jax.jit(jax.export.deserialize(open(f"FOLDER/{{name}}.bin", "rb").read()).call)
    for name in ("image_embedding", "text_embedding", "match")
)
encoded = Tokenizer.from_file("FOLDER/tokenizer.json").encode_batch(["a dog", "a house"])
ids = np.array([e.ids for e in encoded], np.int32)
mask = np.array([e.attention_mask for e in encoded], bool)
images = np.zeros((2, {side}, {side}, 3), np.uint8)  # two pictures: their centre squares, resized
cosines = image_embedding(weights, images) @ text_embedding(weights, ids, mask).T  # the order of a search
logits, scores = match(weights, images, ids, mask)  # row i with row i, after the bridge has looked at both
```

`signature.json` has the names, shapes and types of what each program takes and gives.
"""


def programs(cfg: Config) -> dict[str, tuple[Callable[..., Any], tuple[str, ...]]]:
    """Return program name -> (function of flat parameters and inputs, names of the inputs)."""
    model = BridgeModel(cfg)
    weight = evaluators.settings(cfg, "retrieval").rerank_weight

    def image_embedding(model: BridgeModel, images: jax.Array) -> jax.Array:
        return model.unimodal_image(model.lower_image(images))

    def text_embedding(model: BridgeModel, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return model.unimodal_text(model.lower_text(ids, mask), mask)

    def match(model: BridgeModel, images: jax.Array, ids: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        lower = Lower(image=model.lower_image(images), text=model.lower_text(ids, mask), text_mask=mask)
        cosines = (model.unimodal_image(lower.image) * model.unimodal_text(lower.text, mask)).sum(axis=-1)
        logits = model.fused(lower).itm_logit
        return logits, logits + weight * model.heads.logit_scale() * cosines

    def bind(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda flat, *inputs: nn.apply(function, model)({"params": paths.unflatten(flat)}, *inputs)

    return {
        "image_embedding": (bind(image_embedding), ("images",)),
        "text_embedding": (bind(text_embedding), ("ids", "mask")),
        "match": (bind(match), ("images", "ids", "mask")),
    }


def write(out: str | Path, cfg: Config, params: Params, tokenizer: text.Tokenizer) -> None:
    """Write the folder `out`, whole or not at all. Raises ConfigError if it exists or cannot be written.

    The programs compute in config.compute_dtype, as evaluation did.
    """
    flat = {name: np.asarray(leaf, np.float32) for name, leaf in paths.flatten(params).items()}
    flat = {name: leaf for name, leaf in flat.items() if not name.startswith("loss_weights/")}
    (b,) = jax_export.symbolic_shape("b")
    side, length = cfg.vision.image_px, cfg.text.length
    inputs = {
        "images": jax.ShapeDtypeStruct((b, side, side, 3), jnp.uint8),
        "ids": jax.ShapeDtypeStruct((b, length), jnp.int32),
        "mask": jax.ShapeDtypeStruct((b, length), jnp.bool_),
    }
    weights = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), flat)
    signature: dict[str, Any] = {"platforms": PLATFORMS, "programs": {}}
    with torch_export.new_folder(out) as folder:
        for name, (function, names) in programs(cfg).items():
            jitted = jax.jit(function)
            program = jax_export.export(jitted, platforms=PLATFORMS)(weights, *(inputs[key] for key in names))
            (folder / f"{name}.bin").write_bytes(program.serialize())
            signature["programs"][name] = {
                "inputs": {key: _describe(inputs[key]) for key in names},
                "outputs": [_describe(leaf) for leaf in program.out_avals],
            }
        torch_export.save_tensors(flat, folder / WEIGHTS)
        (folder / SIGNATURE).write_text(json.dumps(signature, indent=2) + "\n", encoding="utf-8")
        (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
        (folder / "README.md").write_text(_README.format(platforms=", ".join(PLATFORMS), side=side), encoding="utf-8")


def export(saves: Checkpoints, step: int, out: str | Path, **data: str) -> int:
    """Export one checkpoint to the new folder `out` and return its parameter count.

    `data` replaces keys of config.data. Raises ConfigError as `write` does.
    """
    cfg = saves.config(step)
    tokenizer = text.load(dataclasses.replace(cfg.data, **data), cfg.text)
    params = torch_export.restore(saves, step)
    write(out, cfg, params, tokenizer)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _describe(leaf: Any) -> dict[str, Any]:
    return {
        "shape": [size if isinstance(size, int) else str(size) for size in leaf.shape],
        "dtype": np.dtype(leaf.dtype).name,
    }
