"""Score the retrieval of COCO's test photos by ECCV Caption and CxC, beside COCO 5K and 1K.

The scores are those of the retrieval evaluator, unimodal and reranked, and its settings hold here too. Each query is
ranked once; `scores/eccv_caption.py` says how the rankings are judged.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from bridge_jax.config import Config, evaluators
from bridge_jax.data import pipeline
from bridge_jax.evals import retrieval
from bridge_jax.evals.scores import eccv_caption
from bridge_jax.evals.scores.eccv_caption import MEASURES, NAME, SIDES
from bridge_jax.step.predict import Predict
from bridge_jax.types import Params, Progress, Table

SCORES = ("unimodal", "rerank")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings for the rankings that ECCV Caption judges."""

    splits: tuple[str, ...]  # splits of the table at the end; this evaluator never chooses a checkpoint
    rerank_top_k: int  # in place of config.evals.retrieval.rerank_top_k; a photo has up to 48 true captions
    bootstrap_samples: int


class Evaluator(evaluators.Evaluator):
    """Score a split. Metrics: `eccv_caption_<score>/<direction>/<measure>`, in percent, with intervals.

    Scores: `unimodal`, and with a bridge `rerank`. Measures: `scores.eccv_caption.MEASURES`.
    """

    Settings = Settings

    @classmethod
    def check(cls, cfg: Config) -> None:
        """Raise ConfigError where a split is not that of the test photos, or a package or setting is missing."""
        evaluators.settings(cfg, "retrieval")
        for split in evaluators.settings(cfg, NAME).splits:
            records = pipeline.open_split(cfg.data, split)
            eccv_caption.require_photos(np.array([record["image_id"] for record in records]))

    def __init__(self, cfg: Config, predict: Predict, *, lower_frozen: bool = False):
        settings, order = evaluators.settings(cfg, NAME), evaluators.settings(cfg, "retrieval")
        order = dataclasses.replace(order, rerank_top_k=settings.rerank_top_k, more_top_k=())
        self._seed, self._samples = cfg.seed, settings.bootstrap_samples
        ranked = dataclasses.replace(cfg, evals={**cfg.evals, "retrieval": order})
        self._retrieval = retrieval.Evaluator(ranked, predict, lower_frozen=lower_frozen)

    def final(self, params: Params, split: str, progress: Progress) -> dict[str, float]:
        """Return every metric of `split`. Raises FloatingPointError on NaN."""
        orders, text_photos, photos = self._retrieval.orders(params, split, progress)
        metrics = {}
        for score, (by_text, by_image) in orders.items():
            found = eccv_caption.measures(
                by_text, by_image, text_photos, photos, samples=self._samples, seed=self._seed
            )
            metrics |= {f"{NAME}_{score}/{name}": value for name, value in found.items()}
        return metrics

    @staticmethod
    def table(metrics: Mapping[str, float]) -> Table:
        """Return every measure in both directions, unimodal and reranked, with 95 % intervals."""

        def cell(name: str) -> str:
            return f"{metrics[name]:.1f} [{metrics[f'{name}_low']:.1f}, {metrics[f'{name}_high']:.1f}]"

        scores = [score for score in SCORES if f"{NAME}_{score}/text_to_image/{MEASURES[0]}" in metrics]
        rows = [
            (measure, score, *(cell(f"{NAME}_{score}/{direction}/{measure}") for direction in SIDES))
            for measure in MEASURES
            for score in scores
        ]
        return Table(("measure", "score", *(f"{direction} [95 %]" for direction in SIDES)), labels=2, rows=rows)
