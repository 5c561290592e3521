"""Score SugarCrepe and SugarCrepe++: is every caption that is true of a photo told from the wrong one?

An item is right where each of its true captions scores higher than the false one: chance is 50 % with one true caption
and 33 % with two. It is scored by the unimodal embeddings, by the match logit, and by both as reranking joins them; and
once more with the photo of another record, which shows how far the words alone go.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bridge_jax.config import Config, ConfigError, evaluators
from bridge_jax.data import pipeline
from bridge_jax.data.questions import JUDGEMENTS
from bridge_jax.evals import asking
from bridge_jax.evals.asking import Asked, Asking
from bridge_jax.models import heads
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step.predict import Predict
from bridge_jax.types import Array, Lower, Params, Progress, Table

SCORES = ("unimodal", "match", "rerank")  # in the order of their columns


class Evaluator(Asking):
    """Score the items of a split. Metrics: `sugarcrepe_<score>/accuracy` and `sugarcrepe_<score>/<kind>/accuracy`.

    Scores: `unimodal`, and with a bridge `match` and `rerank`; `shuffled_<score>`, with the photos of other records.
    """

    @classmethod
    def check(cls, cfg: Config) -> None:
        """Raise ConfigError where a split has no true and false statements."""
        for split in evaluators.settings(cfg, "sugarcrepe").splits:
            statements = pipeline.open_split(cfg.data, split)[0]["statements"]
            if not any(one.name and one.answers == JUDGEMENTS[:1] for one in statements):
                raise ConfigError(
                    f"config.data.dataset: {cfg.data.dataset!r} has no captions that are known to be false; the "
                    "sugarcrepe evaluator reads sugarcrepe or sugarcrepe_pp"
                )

    def __init__(self, cfg: Config, predict: Predict, *, lower_frozen: bool = False):
        del lower_frozen  # too many states to keep
        super().__init__(cfg, predict, "sugarcrepe", texts="statements", pictures=1)
        self.scores = SCORES if cfg.bridge.design != "none" else SCORES[:1]

    def reply(self, params: Params, lower: Lower) -> list[np.ndarray]:
        """Return the scores of each caption, in the order of `scores`. Raises FloatingPointError on NaN."""
        cosine, match = (np.asarray(x, np.float64) for x in self._predict.jit(cosine_and_match)(params, lower))
        weight = self._cfg.evals["retrieval"].rerank_weight if "retrieval" in self._cfg.evals else 1.0
        joined = match + weight * heads.double_scale(params["heads"]["log_scale"], self._cfg.bridge) * cosine
        found = np.stack([cosine, match, joined], axis=1)[:, : len(self.scores)]
        if np.isnan(found).any():
            raise FloatingPointError("sugarcrepe: a score is NaN; an accuracy would be meaningless")
        return list(found)

    def worth(self, texts: list[Asked], answers: Sequence[Any]) -> list[float]:
        """Return whether each item is right by the last of `scores`, in the order of `items`."""
        return right(texts, np.stack(answers))[:, -1].tolist()

    def final(self, params: Params, split: str, progress: Progress) -> dict[str, float]:
        """Return every metric of `split`. Raises FloatingPointError on NaN."""
        texts, own, others = self.answers_with_and_without_picture(params, split, progress)
        first = [texts[rows[0]] for rows in items(texts).values()]
        metrics = {}
        for prefix, answers in (("", own), ("shuffled_", others)):
            for score, won in zip(self.scores, right(texts, np.stack(answers)).T, strict=True):
                metrics |= self._metrics(f"sugarcrepe_{prefix}{score}", first, won.tolist())
        return metrics

    @staticmethod
    def table(metrics: Mapping[str, float]) -> Table:
        """Return accuracy in percent with 95 % intervals, over all and by kind, beside that with other photos."""
        scores = [score for score in SCORES if f"sugarcrepe_{score}/accuracy" in metrics]

        def row(label: str, kind: str, score: str) -> tuple[str, ...]:
            found = [f"sugarcrepe_{prefix}{score}/{kind}" for prefix in ("", "shuffled_")]
            cells = [
                f"{metrics[f'{name}accuracy']:.1f} [{metrics[f'{name}accuracy_low']:.1f}, "
                f"{metrics[f'{name}accuracy_high']:.1f}]"
                for name in found
            ]
            return label, score, f"{metrics[f'{found[0]}statements']:.0f}", *cells

        kinds = ["", *asking.kinds(f"sugarcrepe_{scores[0]}", metrics)]
        rows = [row(kind or "all", f"{kind}/" if kind else "", score) for kind in kinds for score in scores]
        return Table(("items", "score", "number", "accuracy [95 %]", "another photo [95 %]"), labels=2, rows=rows)


def items(texts: Sequence[Asked]) -> dict[str, list[int]]:
    """Return the positions of the captions of each item, by its name, in the order in which items begin."""
    found: dict[str, list[int]] = {}
    for position, one in enumerate(texts):
        found.setdefault(one.question.name, []).append(position)
    return found


def right(texts: Sequence[Asked], scores: np.ndarray) -> np.ndarray:
    """Return whether each item is right, float [items, scores], of scores [texts, scores]. A tie is wrong."""
    true = np.array([one.question.answers == JUDGEMENTS[1:] for one in texts])
    won = [
        scores[[row for row in rows if true[row]]].min(axis=0)
        > scores[[row for row in rows if not true[row]]].max(axis=0)
        for rows in items(texts).values()
    ]
    return np.array(won, float)


def cosine_and_match(model: BridgeModel, lower: Lower) -> tuple[Array, Array]:
    """Return the cosine of the embeddings and the match logit of each pair; without a bridge the cosine for both."""
    image = model.unimodal_image(lower.image)
    cosine = (image * model.unimodal_text(lower.text, lower.text_mask)).sum(axis=-1)
    return cosine, cosine if model.cfg.bridge.design == "none" else model.fused(lower).itm_logit
