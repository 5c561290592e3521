"""Score zero-shot classification: is the class of a photo the one whose prompts fit it best?

The embedding of a class is the mean over its prompts, as in CLIP. With a bridge, each photo's best classes by the
embeddings are reranked: by the match logits of the photo with the first prompts of a class, joined with the embeddings
as retrieval joins them.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from absl import logging

from bridge_jax.config import Config, ConfigError, evaluators
from bridge_jax.data import classes, pipeline, text
from bridge_jax.data.classes import Classes
from bridge_jax.data.padding import padded_batches
from bridge_jax.evals import asking
from bridge_jax.evals.scores import recall, zero_shot
from bridge_jax.step.predict import Predict
from bridge_jax.types import Lower, Params, Progress, Table

NAME = "zero_shot"
SCORES = ("unimodal", "rerank")
MEASURES = ("accuracy", "accuracy_at_5", "mean_per_class")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings for the accuracy of the class that fits a photo best."""

    batch_size: int
    splits: tuple[str, ...]  # splits of the table at the end; this evaluator never chooses a checkpoint
    bootstrap_samples: int
    rerank_classes: int  # the bridge reranks so many of each photo's best classes
    rerank_templates: int  # by the mean match logit of so many prompts of each, the first ones


class Prompts(NamedTuple):
    """The text states of the prompts that the bridge reads; those of a class follow one another."""

    states: np.ndarray  # [C x rerank_templates,T,D]
    mask: np.ndarray  # bool [C x rerank_templates,T]


class Evaluator(evaluators.Evaluator):
    """Classify the photos of a split. Metrics: `zero_shot_<score>/<measure>`, in percent, with intervals.

    Scores: `unimodal`, and with a bridge `rerank`. Measures: `accuracy`, `accuracy_at_5`, `mean_per_class`.
    """

    Settings = Settings

    @classmethod
    def check(cls, cfg: Config) -> None:
        """Raise ConfigError where the data has no classes, a split is missing or the settings do not fit."""
        _classes(cfg)
        for split in evaluators.settings(cfg, NAME).splits:
            pipeline.open_split(cfg.data, split)

    def __init__(self, cfg: Config, predict: Predict, *, lower_frozen: bool = False):
        del lower_frozen  # too many states to keep
        self._cfg, self._predict, self._settings = cfg, predict, evaluators.settings(cfg, NAME)
        self._classes, self._bridged = _classes(cfg), cfg.bridge.design != "none"
        self._tokenizer = text.load(cfg.data, cfg.text)
        _warn(self._tokenizer, self._classes)

    def final(self, params: Params, split: str, progress: Progress) -> dict[str, float]:
        """Return every metric of `split`. Raises FloatingPointError on NaN."""
        ranks, true = self.ranks(params, split, progress)
        metrics = {f"{NAME}/photos": float(len(true)), f"{NAME}/classes": float(len(self._classes.names))}
        for score, found in ranks.items():
            measured = zero_shot.measures(found, true, self._settings.bootstrap_samples, self._cfg.seed)
            metrics |= {f"{NAME}_{score}/{name}": value for name, value in measured.items()}
        return metrics

    def ranks(self, params: Params, split: str, progress: Progress) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return score -> the rank of each photo's class (int [n], best is 1), and the class of each (int [n]).

        Raises FloatingPointError on NaN.
        """
        records, size = pipeline.open_split(self._cfg.data, split), self._settings.batch_size
        embeddings, prompts = self._prompts(params, progress)
        ranks: dict[str, list[np.ndarray]] = {score: [] for score in SCORES[: 1 + self._bridged]}
        true: list[int] = []
        for images, _, valid in pipeline.images(self._cfg, split, size, self._predict.rows):
            lower, first = self._predict.lower_image(params, images), len(true)
            here = np.array([self._classes.of(records[first + row]) for row in range(int(valid.sum()))])
            true += here.tolist()
            cosines = np.asarray(self._predict.unimodal_image(params, lower), np.float64)[valid] @ embeddings.T
            ranks["unimodal"].append(zero_shot.ranks(cosines, here))
            if prompts:
                scores = self._reranked(params, np.asarray(lower)[valid], prompts, cosines)
                ranks["rerank"].append(zero_shot.ranks(scores, here))
            progress("pictures", len(true), len(records))
        return {score: np.concatenate(found) for score, found in ranks.items()}, np.array(true)

    def _prompts(self, params: Params, progress: Progress) -> tuple[np.ndarray, Prompts | None]:
        """Return the embeddings of the classes [C,E] and, with a bridge, the states of their first prompts."""
        texts, embeddings, states, masks = self._classes.prompts, [], [], []
        for rows, valid in padded_batches(len(texts), self._settings.batch_size):
            ids, mask = self._tokenizer.encode([texts[row] for row in rows])
            lower = self._predict.lower_text(params, ids, mask)
            embeddings.append(np.asarray(self._predict.unimodal_text(params, lower, mask), np.float64)[valid])
            if self._bridged:
                kept = valid & (rows % len(self._classes.templates) < self._settings.rerank_templates)
                states.append(np.asarray(lower)[kept])
                masks.append(mask[kept])
            progress("prompts", int(rows[-1]) + 1, len(texts))
        each = np.concatenate(embeddings).reshape(len(self._classes.names), len(self._classes.templates), -1)
        found = Prompts(np.concatenate(states), np.concatenate(masks)) if self._bridged else None
        return zero_shot.class_embeddings(each), found

    def _reranked(self, params: Params, states: np.ndarray, prompts: Prompts, cosines: np.ndarray) -> np.ndarray:
        """Return the scores [n,C] of photos by their lower states: their best classes reordered, before all others."""
        each = self._settings.rerank_templates
        best = recall.top(cosines, min(self._settings.rerank_classes, cosines.shape[1]))
        photo = np.repeat(np.arange(len(best)), best.shape[1] * each)
        prompt = (best[..., None] * each + np.arange(each)).ravel()
        logits = []
        for rows, valid in padded_batches(len(photo), self._settings.batch_size):
            text_states, mask = prompts.states[prompt[rows]], prompts.mask[prompt[rows]]
            lower = Lower(image=states[photo[rows]], text=text_states, text_mask=mask)
            logits.append(np.asarray(self._predict.fused(params, lower)[1], np.float64)[valid])
        match = np.concatenate(logits).reshape(*best.shape, each).mean(axis=-1)
        joined = asking.joined(self._cfg, params, match, np.take_along_axis(cosines, best, axis=1))
        return zero_shot.reranked(cosines, best, joined)

    @staticmethod
    def table(metrics: Mapping[str, float]) -> Table:
        """Return the measures of each score in percent, with 95 % intervals."""

        def cell(name: str) -> str:
            return f"{metrics[name]:.1f} [{metrics[f'{name}_low']:.1f}, {metrics[f'{name}_high']:.1f}]"

        counts = [f"{metrics[f'{NAME}/{name}']:.0f}" for name in ("photos", "classes")]
        rows = [
            (score, *counts, *(cell(f"{NAME}_{score}/{measure}") for measure in MEASURES))
            for score in SCORES
            if f"{NAME}_{score}/accuracy" in metrics
        ]
        columns = ("score", "photos", "classes", "accuracy [95 %]", "accuracy at 5 [95 %]", "mean per class [95 %]")
        return Table(columns, labels=1, rows=rows)


def _classes(cfg: Config) -> Classes:
    """Return the classes of the data. Raises ConfigError where there are none or the settings do not fit them."""
    found, settings = classes.load(cfg.data), evaluators.settings(cfg, NAME)
    if settings.rerank_classes < 1:
        raise ConfigError(f"config.evals.{NAME}.rerank_classes is {settings.rerank_classes}; expected 1 or more")
    if not 1 <= settings.rerank_templates <= len(found.templates):
        raise ConfigError(
            f"config.evals.{NAME}.rerank_templates is {settings.rerank_templates}; expected 1 to "
            f"{len(found.templates)}, the number of templates of {cfg.data.dataset!r}"
        )
    return found


def _warn(tokenizer: text.Tokenizer, found: Classes) -> None:
    """Say how many prompts the model cannot read whole."""
    prompts = found.prompts
    measures = tokenizer.measure(prompts)
    for what, odd in (
        (f"are longer than config.text.length {tokenizer.length}", [one.length > tokenizer.length for one in measures]),
        ("have a word that the vocabulary lacks", [bool(one.unknown) for one in measures]),
    ):
        if any(odd):
            logging.warning("%d of %d prompts %s, first %r", sum(odd), len(odd), what, prompts[odd.index(True)])
