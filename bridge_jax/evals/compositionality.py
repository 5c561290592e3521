"""Score benchmarks of compositionality: is each caption that is true of a photo told from one that is nearly true?

SugarCrepe, SugarCrepe++, VALSE and What'sUp have items of one photo, Winoground and BiVLC of two
(`scores/compositionality.py` says what counts as right). An item is scored by the unimodal embeddings, by the match
logit, and by both as reranking joins them; and once more with the photo of another record, which shows how far the
words alone go.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bridge_jax.config import Config, ConfigError, evaluators
from bridge_jax.data import pipeline
from bridge_jax.data.questions import JUDGEMENTS
from bridge_jax.evals import asking
from bridge_jax.evals.asking import Asked, Asking
from bridge_jax.evals.scores.compositionality import MEASURES, Statement, measure, right
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step.predict import Predict
from bridge_jax.types import Array, Lower, Params, Progress, Table

NAME = "compositionality"
SCORES = ("unimodal", "match", "rerank")  # in the order of their columns


class Evaluator(Asking):
    """Score the items of a split. Metrics: `compositionality_<score>/accuracy`, and `.../<kind>/accuracy` by kind.

    Scores: `unimodal`, and with a bridge `match` and `rerank`; `shuffled_<score>`, with the photos of other records.
    Measures other than that of items of one photo end the score: `unimodal_pair`, `_set`, `_text`, `_image`, `_group`.
    """

    @classmethod
    def check(cls, cfg: Config) -> None:
        """Raise ConfigError where a split has no true and false statements."""
        for split in evaluators.settings(cfg, NAME).splits:
            record = pipeline.open_split(cfg.data, split)[0]
            statements = record["statements"] if "statements" in record else ()  # noqa: SIM401
            if not any(one.name and one.answers == JUDGEMENTS[:1] for one in statements):
                raise ConfigError(
                    f"config.data.dataset: {cfg.data.dataset!r} has no captions that are known to be false; the "
                    f"{NAME} evaluator reads sugarcrepe, sugarcrepe_pp, valse, whatsup, winoground or bivlc"
                )

    def __init__(self, cfg: Config, predict: Predict, *, lower_frozen: bool = False):
        del lower_frozen  # too many states to keep
        super().__init__(cfg, predict, NAME, texts="statements", pictures=1)
        self.scores = SCORES if cfg.bridge.design != "none" else SCORES[:1]

    def reply(self, params: Params, lower: Lower) -> list[np.ndarray]:
        """Return the scores of each caption, in the order of `scores`. Raises FloatingPointError on NaN."""
        cosine, match = (np.asarray(x, np.float64) for x in self._predict.jit(cosine_and_match)(params, lower))
        both = asking.joined(self._cfg, params, match, cosine)
        found = np.stack([cosine, match, both], axis=1)[:, : len(self.scores)]
        if np.isnan(found).any():
            raise FloatingPointError(f"{NAME}: a score is NaN; an accuracy would be meaningless")
        return list(found)

    def worth(self, texts: list[Asked], answers: Sequence[Any]) -> list[float]:
        """Return of each caption whether its item is right about its photo, by the last of `scores`."""
        return right(_said(texts), np.stack(answers))[:, -1].tolist()

    def final(self, params: Params, split: str, progress: Progress) -> dict[str, float]:
        """Return every metric of `split`. Raises FloatingPointError on NaN."""
        texts, own, others = self.answers_with_and_without_picture(params, split, progress)
        metrics = {}
        for prefix, answers in (("", own), ("shuffled_", others)):
            for name, (first, found) in measure(_said(texts), np.stack(answers)).items():
                for score, won in zip(self.scores, found.T, strict=True):
                    counted = [texts[row] for row in first]
                    metrics |= self._metrics(_metric(prefix, score, name), counted, won.tolist())
        return metrics

    @staticmethod
    def table(metrics: Mapping[str, float]) -> Table:
        """Return accuracy in percent with 95 % intervals, over all and by kind, beside that with other photos."""
        columns = [
            (score, name) for name in MEASURES for score in SCORES if f"{_metric('', score, name)}/accuracy" in metrics
        ]

        def row(label: str, kind: str, score: str, name: str) -> tuple[str, ...]:
            found = [f"{_metric(prefix, score, name)}/{kind}" for prefix in ("", "shuffled_")]
            cells = [
                f"{metrics[f'{one}accuracy']:.1f} [{metrics[f'{one}accuracy_low']:.1f}, "
                f"{metrics[f'{one}accuracy_high']:.1f}]"
                for one in found
            ]
            return label, f"{name} {score}".strip(), f"{metrics[f'{found[0]}statements']:.0f}", *cells

        kinds = ["", *asking.kinds(_metric("", *columns[0]), metrics)]
        rows = [
            row(kind or "all", f"{kind}/" if kind else "", score, name)
            for kind in kinds
            for score, name in columns
            if "/".join(filter(None, (_metric("", score, name), kind, "accuracy"))) in metrics
        ]
        return Table(("items", "score", "number", "accuracy [95 %]", "another photo [95 %]"), labels=2, rows=rows)


def _metric(prefix: str, score: str, name: str) -> str:
    """Return the name of a score by a measure."""
    return "_".join(filter(None, (NAME, f"{prefix}{score}", name)))


def _said(texts: Sequence[Asked]) -> list[Statement]:
    return [
        Statement(one.question.name, one.position, one.question.sentence, one.question.answers == JUDGEMENTS[1:])
        for one in texts
    ]


def cosine_and_match(model: BridgeModel, lower: Lower) -> tuple[Array, Array]:
    """Return the cosine of the embeddings and the match logit of each pair; without a bridge the cosine for both."""
    image = model.unimodal_image(lower.image)
    cosine = (image * model.unimodal_text(lower.text, lower.text_mask)).sum(axis=-1)
    return cosine, cosine if model.cfg.bridge.design == "none" else model.fused(lower).itm_logit
