"""Score retrieval in both directions: by the unimodal embeddings, and reranked by the bridge.

Every picture and caption is embedded once. The unimodal order picks each query's best k candidates. Those pairs and the
true pairs are then fused by the bridge, from the cached lower states, and scored by `scores/reranking.py`.

A video is its k frames. Its embedding is the mean of their embeddings, scaled to length one. The bridge sees the tokens
of all frames, while the image tower's own blocks see one frame at a time (`BridgeModel.fused`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from bridge_jax.config import Config, ConfigError, evaluators
from bridge_jax.config.convert import require_one_of
from bridge_jax.config.evaluators import Fits, LeavesRankings, StageEvaluator
from bridge_jax.data import long_captions, pipeline
from bridge_jax.data.padding import padded_batches
from bridge_jax.evals.scores import recall, recall_table, reranking
from bridge_jax.evals.scores.rankings import Rankings, rankings
from bridge_jax.models import heads
from bridge_jax.step.predict import Predict
from bridge_jax.types import Lower, Params, Progress, Table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings for the recall of the unimodal embeddings, and of their best candidates reranked by the bridge."""

    every_steps: int
    batch_size: int
    splits: tuple[str, ...]  # splits of the table at the end; data.eval_split chooses the best checkpoint
    select_images: int  # number of photos of data.eval_split to score during training; 0: all
    select_by: str  # whose rsum chooses the best checkpoint: "unimodal", or "rerank", which takes longer
    rerank_top_k: int
    more_top_k: tuple[int, ...]  # also report the reranking of the best so many candidates, for the table at the end
    rerank_weight: float  # score = fused + weight x unimodal, both as logits
    fit_rerank_weight: bool  # fit it to the best checkpoint (docs/method.md 4.2); tools and exports then use that
    folds: int  # also report the mean over this many equal folds (COCO: five of 1K); 1: off
    bootstrap_samples: int


class Side(NamedTuple):
    """One side of a split: rows in record order."""

    lower: np.ndarray  # [n,L,D], for videos [n,k,L,D]; empty where nothing will be reranked
    mask: np.ndarray  # bool [n,T]; empty for pictures
    image_ids: np.ndarray  # int32 [n]
    kinds: np.ndarray  # str [n]; the kind of each caption; empty strings for pictures
    embeddings: np.ndarray  # float32 [n,E]


class Evaluator(StageEvaluator, Fits, LeavesRankings):
    """Score a split. Metric names: `<score>/<direction>/<recall>`, score one of unimodal, rerank.

    `lower_frozen`: nothing below the first bridged layer changes between calls, so a split's lower states are kept.
    """

    Settings = Settings

    @classmethod
    def check(cls, cfg: Config) -> None:
        """Raise ConfigError where a split does not exist or does not fall into equal folds."""
        settings = evaluators.settings(cfg, "retrieval")
        require_one_of("config.evals.retrieval.select_by", settings.select_by, ("unimodal", "rerank"))
        if settings.select_by == "rerank" and cfg.bridge.design == "none":
            raise ConfigError(
                "config.evals.retrieval.select_by is 'rerank', but config.bridge.design 'none' has no bridge to rerank "
                "with: set it to 'unimodal'"
            )
        for split in (cfg.data.eval_split, *settings.splits):
            photos, folds = len(long_captions.open_whole(cfg, split)), settings.folds
            if (split in settings.splits or not settings.select_images) and photos % folds:
                raise ConfigError(
                    f"config.evals.retrieval.folds: {folds} folds do not divide the {photos} photos of {split!r}; "
                    "choose a divisor, or 1 for none"
                )

    def __init__(self, cfg: Config, predict: Predict, *, lower_frozen: bool = False):
        self._cfg, self._predict, self._settings = cfg, predict, evaluators.settings(cfg, "retrieval")
        self._lower_frozen = lower_frozen
        self._kept: dict[tuple[str, int], tuple[Side, Side]] = {}

    def watch(self, params: Params, progress: Progress) -> dict[str, float]:
        """Score held-out recall, which chooses the best checkpoint: unimodal, or reranked by a weight fitted to it."""
        settings, split = self._settings, self._cfg.data.eval_split
        if settings.select_by == "unimodal":
            return self.run(params, split, rerank=False, limit_images=settings.select_images, progress=progress)
        return self._reranked(params, split, settings.select_images, settings.fit_rerank_weight, (), progress)[0]

    def score(self, metrics: Mapping[str, float]) -> dict[str, float]:
        name = self._settings.select_by
        return {f"{name}_rsum": metrics[f"{name}/rsum"]}

    def summary(self, metrics: Mapping[str, float]) -> str:
        return "; ".join(
            f"{score} text_to_image r@1 {metrics[f'{score}/text_to_image/r@1']:.1f}, "
            f"image_to_text r@1 {metrics[f'{score}/image_to_text/r@1']:.1f}, rsum {metrics[f'{score}/rsum']:.1f}"
            for score in ("unimodal", "rerank")
            if f"{score}/rsum" in metrics
        )

    def final(self, params: Params, split: str, progress: Progress) -> dict[str, float]:
        """Return every metric of `split`; where there is a bridge, of the reranked order too."""
        return self.ranked(params, split, progress)[0]

    def ranked(self, params: Params, split: str, progress: Progress) -> tuple[dict[str, float], Rankings | None]:
        if self._cfg.bridge.design == "none":
            return self.run(params, split, rerank=False, progress=progress), None
        metrics, order = self._reranked(params, split, 0, False, self._settings.more_top_k, progress)
        return metrics, order()

    def run(
        self, params: Params, split: str, *, rerank: bool, limit_images: int = 0, progress: Progress | None = None
    ) -> dict[str, float]:
        """Return every metric of `split`: recalls with 95 % intervals, per kind of caption, and per fold.

        `limit_images`: score only the first so many pictures (0: all). Raises FloatingPointError on NaN.
        """
        report = progress or (lambda *_: None)
        if rerank:
            return self._reranked(params, split, limit_images, False, self._settings.more_top_k, report)[0]
        images, texts = self._sides(params, split, limit_images, False, report)
        cosines = texts.embeddings @ images.embeddings.T
        return self._recalls("unimodal", cosines, cosines.T, (texts, images), limit_images)

    def ranks(self, params: Params, split: str, progress: Progress) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return `<score>/<direction>` -> the rank of every query (best is 1) and the photo that it belongs to.

        The scores are unimodal and, where there is a bridge, rerank. Raises FloatingPointError on NaN.
        """
        orders, *ids = self.orders(params, split, progress)
        found = {score: recall.both_ranks(*order, *ids) for score, order in orders.items()}
        return {f"{score}/{direction}": ranks for score, both in found.items() for direction, ranks in both.items()}

    def orders(
        self, params: Params, split: str, progress: Progress
    ) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], np.ndarray, np.ndarray]:
        """Return score -> its matrices [texts,images] and [images,texts]; and the photo of each text and picture."""
        bridged = self._cfg.bridge.design != "none"
        images, texts = self._sides(params, split, 0, bridged, progress)
        cosines = texts.embeddings @ images.embeddings.T
        orders = {"unimodal": (cosines, cosines.T)}
        if bridged:
            weight = self._settings.rerank_weight * self._scale(params)
            candidates = self._candidates(params, cosines, texts, images, (), progress)
            orders["rerank"] = reranking.reorder(candidates, cosines, weight)
        return orders, texts.image_ids, images.image_ids

    def _reranked(
        self, params: Params, split: str, limit: int, fit: bool, more_top_k: tuple[int, ...], report: Progress
    ) -> tuple[dict[str, float], Callable[[], Rankings]]:
        """Return the metrics of both orders and of `more_top_k`, and a maker of the rankings; `fit`: fit the weight."""
        images, texts = self._sides(params, split, limit, True, report)
        cosines, scale = texts.embeddings @ images.embeddings.T, self._scale(params)
        metrics = self._recalls("unimodal", cosines, cosines.T, (texts, images), limit)
        deepest = self._candidates(params, cosines, texts, images, more_top_k, report)
        candidates = reranking.first(deepest, self._settings.rerank_top_k)
        if fit:
            self._fit(candidates, cosines, scale, texts, images)
        metrics |= self._rerank(candidates, cosines, scale, (texts, images), limit)
        weight = self._settings.rerank_weight
        for depth in more_top_k:
            by_text, by_image = reranking.reorder(reranking.first(deepest, depth), cosines, weight * scale)
            found = recall.retrieval(by_text, texts.image_ids, images.image_ids, image_scores=by_image)
            metrics |= {f"rerank@{depth}/{name}": value for name, value in found.items()}
        return metrics, partial(rankings, candidates, cosines, scale, weight, texts.image_ids, images.image_ids)

    def _fit(
        self, candidates: reranking.Candidates, cosines: np.ndarray, scale: float, texts: Side, images: Side
    ) -> float:
        """Fit the weight of the cosines, use it from here on, and return it."""
        weight = reranking.fit(candidates, cosines, scale, texts.image_ids, images.image_ids)
        self._settings = dataclasses.replace(self._settings, rerank_weight=weight)
        return weight

    def _sides(self, params: Params, split: str, limit: int, keep_lower: bool, report: Progress) -> tuple[Side, Side]:
        """Return pictures and texts of a split, with their lower states if they are needed now or later."""
        if (split, limit) in self._kept:
            images, texts = (self._embed(params, side, report) for side in self._kept[split, limit])
        else:
            images, texts = self._run_towers(params, split, limit, keep_lower or self._lower_frozen, report)
        if self._lower_frozen:
            self._kept[split, limit] = images, texts
        return images, texts

    def _scale(self, params: Params) -> float:
        return heads.double_scale(params["heads"]["log_scale"], self._cfg.bridge)

    def _run_towers(
        self, params: Params, split: str, limit: int, keep_lower: bool, report: Progress
    ) -> tuple[Side, Side]:
        predict, size = self._predict, self._settings.batch_size

        def gather(rows: list[tuple[np.ndarray, ...]]) -> Side:
            return Side(*(np.concatenate(column) for column in zip(*rows, strict=True)))

        empty, rows = np.zeros((0, 0)), []
        frames = long_captions.open_whole(self._cfg, split).frames
        for images, ids, valid in pipeline.images(self._cfg, split, size, predict.rows, count=frames):
            lower = predict.lower_image(params, images)
            embedding = np.asarray(predict.unimodal_image(params, lower))[valid]
            kept = np.asarray(lower)[valid] if keep_lower else empty
            rows.append((kept, empty, ids[valid], np.full(valid.sum(), ""), embedding))
            report("pictures", len(rows) * size, 0)
            if 0 < limit <= len(rows) * size:
                break
        pictures = gather(rows)
        if limit:
            pictures = Side(*(value[:limit] for value in pictures))
        rows = []
        for ids, mask, image_ids, kinds, valid in pipeline.captions(self._cfg, split, size):
            wanted = valid & np.isin(image_ids, pictures.image_ids)
            if not wanted.any():
                continue
            lower = predict.lower_text(params, ids, mask)
            embedding = np.asarray(predict.unimodal_text(params, lower, mask))[wanted]
            kept = np.asarray(lower)[wanted] if keep_lower else empty
            rows.append((kept, mask[wanted], image_ids[wanted], np.array(kinds)[wanted], embedding))
            report("captions", len(rows) * size, 0)
        return pictures, gather(rows)

    def _embed(self, params: Params, side: Side, report: Progress) -> Side:
        """Embed again from the lower states in memory."""
        embeddings, count = [], len(side.lower)
        for picked, _ in padded_batches(count, self._settings.batch_size):
            if len(side.mask):
                embedded = self._predict.unimodal_text(params, side.lower[picked], side.mask[picked])
            else:
                embedded = self._predict.unimodal_image(params, side.lower[picked])
            embeddings.append(np.asarray(embedded))
            report("embedded", len(embeddings) * len(picked), count)
        return side._replace(embeddings=np.concatenate(embeddings)[:count])

    def _recalls(
        self, name: str, by_text: np.ndarray, by_image: np.ndarray, sides: tuple[Side, Side], limit: int
    ) -> dict[str, float]:
        """Return the recalls of both directions: `by_text` [texts, images] and `by_image` [images, texts].

        Over the whole split also their mean over equal folds. Raises ConfigError where folds cannot be equal.
        """
        (texts, images), settings = sides, self._settings
        ids, samples = (texts.image_ids, images.image_ids), settings.bootstrap_samples
        metrics = recall.retrieval(by_text, *ids, image_scores=by_image, bootstrap_samples=samples, seed=self._cfg.seed)
        metrics |= recall.by_kind(by_text, texts.kinds, *ids)
        if settings.folds > 1 and not limit:
            folds = recall.folds(by_text, *ids, settings.folds, image_scores=by_image)
            metrics |= {f"{settings.folds}_folds/{key}": value for key, value in folds.items()}
        return {f"{name}/{key}": value for key, value in metrics.items()}

    def fit(self, params: Params, progress: Progress) -> dict[str, float]:
        settings, cfg = self._settings, self._cfg
        if not settings.fit_rerank_weight or cfg.bridge.design == "none":
            return {}
        images, texts = self._sides(params, cfg.data.eval_split, settings.select_images, True, progress)
        cosines = texts.embeddings @ images.embeddings.T
        candidates = self._candidates(params, cosines, texts, images, (), progress)
        return {"rerank_weight": self._fit(candidates, cosines, self._scale(params), texts, images)}

    def _candidates(
        self, params: Params, cosines: np.ndarray, texts: Side, images: Side, more: tuple[int, ...], report: Progress
    ) -> reranking.Candidates:
        """Fuse each query's best candidates, as many as the deepest order asks for, and the true pairs."""
        by_text, by_image = reranking.best(cosines, max((self._settings.rerank_top_k, *more)))
        rows, columns = reranking.pairs(by_text, by_image, texts.image_ids[:, None] == images.image_ids[None])
        fused = np.zeros(cosines.shape, np.float32)
        fused[rows, columns] = self._fuse(params, texts, images, rows, columns, report)
        return reranking.Candidates(by_text, by_image, fused)

    def _rerank(
        self, candidates: reranking.Candidates, cosines: np.ndarray, scale: float, sides: tuple[Side, Side], limit: int
    ) -> dict[str, float]:
        texts, images = sides
        weight = self._settings.rerank_weight * scale
        by_text, by_image = reranking.reorder(candidates, cosines, weight)
        metrics = self._recalls("rerank", by_text, by_image, sides, limit)
        if self._settings.fit_rerank_weight:
            metrics["rerank/weight"] = self._settings.rerank_weight
        ids = texts.image_ids, images.image_ids
        metrics |= reranking.gains(cosines, (by_text, by_image), *ids, self._cfg.seed)
        return metrics | reranking.two_way(candidates, cosines, weight, *ids)

    def _fuse(
        self, params: Params, texts: Side, images: Side, rows: np.ndarray, columns: np.ndarray, report: Progress
    ) -> np.ndarray:
        """Return the match logit of every pair (texts[rows[i]], images[columns[i]]), fused by the bridge."""
        logits = []
        for picked, _ in padded_batches(len(rows), self._settings.batch_size):
            t, i = rows[picked], columns[picked]
            lower = Lower(image=images.lower[i], text=texts.lower[t], text_mask=texts.mask[t])
            logits.append(np.asarray(self._predict.fused(params, lower)[1]))
            report("pairs", picked[-1] + 1, len(rows))
        return np.concatenate(logits)[: len(rows)]

    @staticmethod
    def table(metrics: Mapping[str, float]) -> Table:
        return recall_table.table(metrics)
