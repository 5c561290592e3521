"""The towers' lower states on disk, for stages that train nothing below the first bridged layer.

A frozen tower maps a fixed picture to fixed states, so they are computed once: for every photo the states of `crops`
fixed training views, for every caption the states of its tokens. Training then starts at the first interaction and
never runs the encoders.

The name of a cache folder holds a hash of all that its content depends on: the lower parameters, the preprocessing and
the prepared data. Runs that agree on those share the folder. It is filled under a temporary name and renamed when
complete, so a killed fill leaves nothing that looks whole. States are stored as float16: half the disk, a relative
error of at most 2^-11. Every host reads the whole cache, from its own disk or a common one.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from bridge_jax import paths, rng
from bridge_jax.config import Config, ConfigError, Stage, evaluators, objectives
from bridge_jax.data import image, pipeline, text, wrong_captions
from bridge_jax.data.broken import REFUSED, BrokenError, draw_caption
from bridge_jax.data.partners import Drawn, Ranked
from bridge_jax.data.records import caption_weights, drawn_captions, fingerprint, readable
from bridge_jax.data.stored_rows import StoredRows
from bridge_jax.models.placement import is_lower
from bridge_jax.step.predict import Predict
from bridge_jax.types import Params, Progress

IMAGE, TEXT, MASK, BROKEN = "image.npy", "text.npy", "text_mask.npy", "broken.npy"


@dataclasses.dataclass(frozen=True)
class LowerCache:
    """An opened cache. Calling it draws the training example of a photo."""

    image: StoredRows  # float16 [photos, crops, P, D]
    text: StoredRows  # float16 [captions, T, D]
    text_mask: np.ndarray  # bool [captions, T]
    ids: np.ndarray | None  # int32 [captions, T], if the stage predicts words
    captions: Sequence[np.ndarray]  # for each photo, the rows of the captions that the stage draws from
    weights: Sequence[np.ndarray | None]  # how likely each of them is drawn
    first: np.ndarray  # int64 [photos], the row of the photo's first caption
    image_ids: np.ndarray  # int32 [photos]
    broken: np.ndarray  # bool [photos], True if the photo has no states
    faults: Mapping[int, str]  # row of an unusable caption -> the reason
    kinds: Sequence[str]  # of every caption
    wrong: Sequence[Sequence[wrong_captions.Wrong]]  # for each photo, its wrong captions
    draw_wrong: wrong_captions.DrawWrong | None  # where the stage fuses them
    ranked: Ranked | None = None  # where partners come from the whole split

    def __call__(self, index: int, generator: np.random.Generator) -> dict[str, Any]:
        """Return arrays for `Batch.from_arrays`: a random crop and a random caption of the photo at `index`.

        Raises BrokenError for a photo that could not be read when the cache was filled.
        """
        if self.broken[index]:
            raise BrokenError("its picture cannot be read")
        first = self.first[index]
        drawn = self.captions[index] - first
        weights = self.weights[index]
        chosen, refused = draw_caption(drawn, lambda caption: self.faults.get(first + caption, ""), generator, weights)
        caption = first + chosen
        crop = int(generator.integers(self.image.shape[1]))
        wrong = self.draw_wrong(self.wrong[index], self.kinds[int(caption)], generator) if self.draw_wrong else {}
        return {
            REFUSED: refused,
            "image_ids": self.image_ids[index],
            "text_mask": self.text_mask[caption],
            "lower_image": self.image.read(index, crop),
            "lower_text": self.text.read(caption),
            **({} if self.ids is None else {"ids": self.ids[caption]}),
            **wrong,
            **(self._partners(self.ranked.draw(index, int(caption), generator), generator) if self.ranked else {}),
        }

    def _partners(self, drawn: Drawn, generator: np.random.Generator) -> dict[str, np.ndarray]:
        crops = generator.integers(self.image.shape[1], size=len(drawn.records))
        return {
            "partner_lower_image": np.stack(
                [self.image.read(*place) for place in zip(drawn.records, crops, strict=True)]
            ),
            "partner_lower_text": np.stack([self.text.read(caption) for caption in drawn.captions]),
            "partner_image_valid": drawn.records_valid,
            "partner_text_mask": self.text_mask[drawn.captions] & drawn.captions_valid[:, None],
        }


def key(cfg: Config, crops: int, params: Params) -> str:
    """Return the hash of everything that the cached states depend on."""
    data = cfg.data
    digest = hashlib.sha256(fingerprint(data, data.train_split).encode())
    for path, array in sorted(paths.flatten(params).items()):
        if is_lower(path, cfg):
            digest.update(path.encode() + multihost_utils.process_allgather(array, tiled=True).tobytes())
    settings = {
        "seed": cfg.seed,
        "crops": crops,
        "dtype": cfg.compute_dtype,
        "meeting": [cfg.bridge.placement, cfg.bridge.layers],
        "vision": {**dataclasses.asdict(cfg.vision), "pretrained": ""},
        "text": {**dataclasses.asdict(cfg.text), "pretrained": ""},
        "view": [data.crop_area, data.crop_ratio, data.flip, data.randaugment_layers, data.randaugment_magnitude]
        + ["squash"] * data.squash
        + ["sRGB"],  # older code cached the colours of other profiles as they were
        "vocabulary": text.load(data, cfg.text).fingerprint,
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def open_or_fill(cfg: Config, stage: Stage, params: Params, predict: Predict, progress: Progress) -> LowerCache:
    """Return the cache of the training split for `stage`, and fill it first if it does not exist.

    `predict` is built for the stage's evaluator. Raises ConfigError if a state overflows float16.
    """
    folder = Path(cfg.cache_dir) / f"{cfg.data.dataset}-{cfg.data.train_split}-{key(cfg, stage.cached_crops, params)}"
    records = pipeline.open_split(cfg.data, cfg.data.train_split)
    if not _on_every_host(folder.exists()):  # all hosts compute together, even if some have the cache
        temporary = folder.with_name(f"{folder.name}.filling-{jax.process_index()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        size = evaluators.settings(cfg, objectives.evaluator_of(stage)).batch_size  # of `predict`
        filling = _Filling(cfg, records, size, temporary, progress)
        _fill_images(filling, stage.cached_crops, partial(predict.lower_image, params), predict.rows)
        _fill_texts(filling, partial(predict.lower_text, params))
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another host, on the same disk, was first
                raise
            shutil.rmtree(temporary)
    image_ids, captions, weights, firsts, faults, all_texts, kinds, wrong, first = [], [], [], [], {}, [], [], [], 0
    for record in readable(records):  # captions lie in the order of the records
        texts = record["captions"] if record else ()
        image_ids.append(record["image_id"] if record else -1)
        drawn = drawn_captions(record, stage.caption_kinds) if record else []
        captions.append(first + np.array(drawn, np.int64))
        weights.append(caption_weights(record, drawn, stage.caption_kinds, stage.kind_shares) if record else None)
        firsts.append(first)
        faults |= {first + i: fault for i, caption in enumerate(texts) if (fault := text.fault(caption))}
        all_texts += texts
        kinds += record["caption_kinds"] if record else ()
        wrong.append(wrong_captions.of_record(record) if record else ())
        first += len(texts)
    reads_words = any(objectives.needs(name).output for name in stage.losses)  # an `output` may read the token ids
    tokenizer = text.load(cfg.data, cfg.text)
    broken = folder / BROKEN  # caches of older code have no such file
    return LowerCache(
        image=StoredRows.open(folder / IMAGE),
        text=StoredRows.open(folder / TEXT),
        text_mask=np.load(folder / MASK, allow_pickle=False),
        ids=tokenizer.encode(all_texts)[0] if reads_words else None,
        captions=captions,
        weights=weights,
        first=np.array(firsts),
        image_ids=np.array(image_ids, np.int32),
        broken=np.load(broken, allow_pickle=False) if broken.exists() else np.zeros(len(records), bool),
        faults=faults,
        kinds=kinds,
        wrong=wrong,
        draw_wrong=wrong_captions.draw_of(records, cfg.data.dataset, tokenizer, stage),
    )


class _Filling(NamedTuple):
    """A cache that is being filled."""

    cfg: Config
    records: Sequence[Mapping[str, Any]]
    size: int  # rows of a batch
    folder: Path
    progress: Progress


def _fill_images(filling: _Filling, crops: int, embed: Callable[[np.ndarray], Any], rows: Sequence[int]) -> None:
    """Write the states of every crop. This host passes `rows` of each batch to `embed`, which returns all rows."""
    cfg, records, size, folder, progress = filling
    seed, side = rng.stream_seed(cfg.seed, "lower_cache"), cfg.vision.image_px
    broken = np.zeros(len(records), bool)

    def view(position: int) -> np.ndarray:
        generator = np.random.default_rng((seed, position))
        try:
            record = records[position // crops]
            flip = image.may_flip(record["captions"])
            return image.train_view(record["image"], side, cfg.data, flip, generator)
        except BrokenError:
            broken[position // crops] = True
            return np.zeros((side, side, 3), np.uint8)  # whose states are never read

    total = len(records) * crops
    out = None
    for first, views in pipeline.batched(view, total, size, cfg.data.threads, rows):
        states = _float16(embed(np.stack(views)), "image")
        if out is None:
            out = _create(folder / IMAGE, (len(records), crops, *states.shape[1:]))
        count = min(len(states), total - first)
        out.reshape(total, *states.shape[1:])[first : first + count] = states[:count]
        progress("pictures", first + count, total)
    assert out is not None
    out.flush()
    np.save(folder / BROKEN, multihost_utils.process_allgather(broken).reshape(-1, len(records)).any(axis=0))


def _fill_texts(filling: _Filling, embed: Callable[[np.ndarray, np.ndarray], Any]) -> None:
    cfg, records, size, folder, progress = filling
    total, out, masks = sum(len(record["captions"]) for record in readable(records) if record), None, []
    for index, (ids, mask, _, _, valid) in enumerate(pipeline.captions(cfg, cfg.data.train_split, size, skip=True)):
        first = index * size
        states = _float16(embed(ids, mask), "text")
        if out is None:
            out = _create(folder / TEXT, (total, *states.shape[1:]))
        rows = int(valid.sum())
        out[first : first + rows] = states[:rows]
        masks.append(mask[:rows])
        progress("captions", first + rows, total)
    assert out is not None
    out.flush()
    np.save(folder / MASK, np.concatenate(masks))


def _on_every_host(flag: bool) -> bool:
    return bool(np.all(multihost_utils.process_allgather(np.array(flag))))


def _create(path: Path, shape: tuple[int, ...]) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)


def _float16(states: Any, tower: str) -> np.ndarray:
    full = np.asarray(states, np.float32)
    if not np.abs(full).max() < np.finfo(np.float16).max:
        raise ConfigError(
            f"config.stages: the {tower} tower's lower states reach {np.abs(full).max():.3g}; the cache holds "
            "float16, which ends at 65504: set cached_crops=0"
        )
    return full.astype(np.float16)
