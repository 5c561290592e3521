"""Read where the bridge looks: the attention of its layers on pairs, and the match logit without some patches.

A removed patch gives the bridge nothing of its own: where the towers first meet (`Lower.image`), its state becomes the
mean of the photo's patches that stay. The patches that stay may hold a trace of it, from the blocks of the image tower
below; that is as true of the random patches beside which the fall is shown.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bridge_jax.analysis import deletion
from bridge_jax.analysis.deletion import Fall
from bridge_jax.config import Config, ConfigError
from bridge_jax.data import image, text
from bridge_jax.data.padding import padded_batches
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.models.towers import tower_class
from bridge_jax.report.gallery import Gallery
from bridge_jax.step.predict import Predict
from bridge_jax.types import Array, Lower, Params, Progress

WAYS = ("text_over_image", "image_over_text")  # words look at patches; patches look at words
SHARE, DRAWS, SEED = 0.1, 10, 0  # of the patches; of random ones; of the draws and of the bootstrap
_CAPTIONS = 5  # of a photo at most


@dataclasses.dataclass(frozen=True)
class Looks:
    """The maps of some photos with their first caption, and the falls of their match logits with all captions.

    `maps` holds float32 [Q,2,words,patches] of each photo, over WAYS: how much a word looks at a patch, and how much a
    patch looks at a word, averaged over the heads. The rest of a word's attention lies on the class token.
    """

    rows: list[int]  # of the gallery
    words: list[list[str]]
    maps: list[np.ndarray]
    logits: np.ndarray  # float32 [photos], the match logit of the pair
    falls: dict[tuple[int, str], Fall]  # by layer and way
    pairs: int  # that the falls are over


def look(cfg: Config, params: Params, predict: Predict, gallery: Gallery, photos: int, progress: Progress) -> Looks:
    """Look at `photos` photos of the gallery, evenly spread. Raises ConfigError where no layer attends, BrokenError."""
    check(cfg, gallery)
    tokenizer = text.load(cfg.data, cfg.text)
    rows = np.unique(np.linspace(0, len(gallery.records) - 1, photos).round().astype(int)).tolist()
    rows = [row for row in rows if gallery.captions(row)]
    captions = [(row, caption) for row in rows for caption in gallery.captions(row)[:_CAPTIONS]]
    first = np.unique([row for row, _ in captions], return_index=True)[1]
    pairs = _Pairs(cfg, params, predict, gallery, captions, tokenizer)
    logits, weights = pairs.read(progress)
    words = [spoken(tokenizer.words(caption)) for _, caption in captions]
    maps = [_maps(each, said) for each, said in zip(weights, words, strict=True)]
    falls = _falls(pairs, logits, maps, np.array([row for row, _ in captions]), progress)
    return Looks(
        rows,
        [[word for word, _ in words[index]] for index in first],
        [maps[index] for index in first],
        logits[first],
        falls,
        len(captions),
    )


def check(cfg: Config, gallery: Gallery) -> None:
    """Raise ConfigError where there is no map to draw."""
    if cfg.bridge.design in ("none", "pooled"):
        raise ConfigError(f"config.bridge.design {cfg.bridge.design!r} has no attention between words and patches")
    if gallery.records.frames > 1:
        raise ConfigError("words look at all frames of a video at once, which a map of one photo does not show")


def spoken(words: Sequence[tuple[str, list[int]]]) -> list[tuple[str, list[int]]]:
    """Return the words that have tokens, without punctuation marks, which no photo shows."""
    return [(word, places) for word, places in words if places and any(letter.isalnum() for letter in word)]


def _maps(weights: tuple[np.ndarray, np.ndarray], words: Sequence[tuple[str, list[int]]]) -> np.ndarray:
    """Return [Q,2,words,patches] from the attention [Q,T,P] of words and [Q,P,T] of patches, by the word's tokens."""
    by_word, by_patch = weights
    if not words:
        return np.zeros((len(by_word), 2, 0, by_word.shape[2]), np.float32)
    looks = [np.stack([by_word[:, places].mean(axis=1), by_patch[:, :, places].sum(axis=2)], 1) for _, places in words]
    return np.stack(looks, axis=2)


def _falls(
    pairs: "_Pairs", whole: np.ndarray, maps: Sequence[np.ndarray], photos: np.ndarray, progress: Progress
) -> dict[tuple[int, str], Fall]:
    layers, _, _, patches = maps[0].shape
    drawn = deletion.random_patches(len(maps), patches, SHARE, DRAWS, SEED)
    random = np.stack([pairs.without(removed, progress) for removed in drawn])
    found = {}
    for layer in range(layers):
        for way, name in enumerate(WAYS):
            attention = np.stack([each[layer, way].sum(axis=0) for each in maps])
            attended = pairs.without(deletion.most_attended(attention, SHARE), progress)
            found[layer, name] = deletion.fall(whole, attended, random, photos, SEED)
    return found


class _Pairs:
    """Photos with captions, whose lower states are in memory; they are fused with and without some patches."""

    def __init__(
        self,
        cfg: Config,
        params: Params,
        predict: Predict,
        gallery: Gallery,
        captions: Sequence[tuple[int, str]],
        tokenizer: text.Tokenizer,
    ):
        self._params, self._predict, self._size = params, predict, cfg.evals["retrieval"].batch_size
        self.prefix = tower_class("vision", cfg.vision.tower).prefix
        rows = [row for row, _ in captions]
        photos = list(dict.fromkeys(rows))
        views = np.stack([image.eval_view(gallery.records[r]["image"], cfg.vision.image_px, cfg.data.squash)
                          for r in photos])  # fmt: skip
        ids, self._mask = tokenizer.encode([caption for _, caption in captions])
        of_photo = self._states(predict.lower_image, views)
        self._image = of_photo[[photos.index(row) for row in rows]]
        self._text = self._states(predict.lower_text, ids, self._mask)

    def read(self, progress: Progress) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """Return the match logits, and of each pair the attention over patches [Q,T,P] and over words [Q,P,T]."""
        logits, weights = [], []
        for picked, valid in self._batches("maps", progress):
            logit, by_word, by_patch = self._predict.jit(_attended, self.prefix)(self._params, self._lower(picked))
            logits.append(np.asarray(logit)[valid])
            weights += zip(np.asarray(by_word)[valid], np.asarray(by_patch)[valid], strict=True)
        return np.concatenate(logits), weights

    def without(self, removed: np.ndarray, progress: Progress) -> np.ndarray:
        """Return the match logits without some patches, bool [pairs,patches]."""
        logits, run = [], self._predict.jit(_without, self.prefix)
        for picked, valid in self._batches("removals", progress):
            logits.append(np.asarray(run(self._params, self._lower(picked), removed[picked]))[valid])
        return np.concatenate(logits)

    def _batches(self, what: str, progress: Progress) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for picked, valid in padded_batches(len(self._image), self._size):
            yield picked, valid
            progress(what, int(picked[-1]) + 1, 0)

    def _lower(self, picked: np.ndarray) -> Lower:
        return Lower(image=self._image[picked], text=self._text[picked], text_mask=self._mask[picked])

    def _states(self, run: Any, *arrays: np.ndarray) -> np.ndarray:
        states = []
        for picked, valid in padded_batches(len(arrays[0]), self._size):
            states.append(np.asarray(run(self._params, *(array[picked] for array in arrays)))[valid])
        return np.concatenate(states)


def _attended(model: BridgeModel, lower: Lower, prefix: int) -> tuple[Array, Array, Array]:
    """Return the match logits [B], and the attention over patches [B,Q,T,P] and of patches [B,Q,P,T]."""
    fused = model.fused(lower)
    by_word = jnp.stack(fused.text_over_image, axis=1)[..., prefix:]
    return fused.itm_logit, by_word, jnp.stack(fused.image_over_text, axis=1)[:, :, prefix:]


def _without(model: BridgeModel, lower: Lower, removed: Array, prefix: int) -> jax.Array:
    """Return the match logits [B] without the patches that `removed` [B,patches] marks."""
    gone = jnp.pad(removed, ((0, 0), (prefix, 0)))[..., None]
    stays = jnp.pad(~removed, ((0, 0), (prefix, 0)))[..., None].astype(lower.image.dtype)
    mean = (lower.image * stays).sum(axis=1, keepdims=True) / stays.sum(axis=1, keepdims=True)
    return model.fused(dataclasses.replace(lower, image=jnp.where(gone, mean, lower.image))).itm_logit
