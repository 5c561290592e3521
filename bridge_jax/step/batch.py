"""The fields of the batch that a stage's step reads."""

from typing import Any

import jax
import numpy as np

from bridge_jax.config import Config, Stage, objectives
from bridge_jax.models.towers import tower_class
from bridge_jax.types import Batch


def abstract_batch(cfg: Config, stage: Stage) -> Batch:
    """Return the fields of a stage's global batch, each as its shape and type.

    The pipeline and the cache of lower states make the same fields: tests/step/test_batch.py compares them.
    """
    B, T, side, k = stage.batch_size, cfg.text.length, cfg.vision.image_px, objectives.pictures(cfg, stage)
    needs = [objectives.needs(name) for name in stage.losses]

    def leaf(*shape: int, dtype: Any = np.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((B, *shape), dtype)

    arrays = {"image_ids": leaf(), "text_mask": leaf(T, dtype=np.bool_)}
    if stage.cached_crops:
        tokens = tower_class("vision", cfg.vision.tower).prefix + (side // cfg.vision.patch_px) ** 2
        arrays["lower_image"] = leaf(tokens, cfg.vision.width, dtype=np.float16)
        arrays["lower_text"] = leaf(T, cfg.text.width, dtype=np.float16)
    else:
        arrays["images"] = leaf(*([k] if k > 1 else []), side, side, 3, dtype=np.uint8)
    if not stage.cached_crops or any(each.output for each in needs):
        arrays["ids"] = leaf(T)
    if count := objectives.wrong_captions(stage):
        arrays |= {"wrong_ids": leaf(count, T), "wrong_mask": leaf(count, T, dtype=np.bool_)}
    if k := objectives.partners_brought(cfg, stage):
        images, texts = ("lower_image", "lower_text") if stage.cached_crops else ("images", "ids")
        arrays |= {
            f"partner_{name}": leaf(k, *arrays[name].shape[1:], dtype=arrays[name].dtype) for name in (images, texts)
        }
        arrays |= {"partner_image_valid": leaf(k, dtype=np.bool_), "partner_text_mask": leaf(k, T, dtype=np.bool_)}
    for fields in (each.fields for each in needs if each.fields):
        arrays |= {name: leaf(*row.shape, dtype=row.dtype) for name, row in fields.shapes(cfg).items()}
    return Batch.from_arrays(arrays)
