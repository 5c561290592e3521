"""Score the captions that the decoder writes of every picture of a split, against the captions that people wrote.

Where each picture has captions of one kind, and pictures differ in kind (the domains of nocaps), each kind is scored
too, as a set of its own with its own document frequencies. COCO's code scores the domains in the same way, with one
annotation file each.

The same captions are also scored as captions of another picture, which shows how far words alone go. Where the data
describes the scene (shapes), the share of captions that are true of it is scored too; where the Java program of METEOR
is installed, METEOR.
"""

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from bridge_jax import rng
from bridge_jax.config import Config, ConfigError, evaluators
from bridge_jax.config.evaluators import StageEvaluator, WritesResults
from bridge_jax.data import pipeline, shapes, text
from bridge_jax.evals.asking import derangement
from bridge_jax.evals.scores import accuracy, caption, meteor, ptb
from bridge_jax.models import search
from bridge_jax.step.predict import Predict
from bridge_jax.types import Lower, Params, Progress, Table

SCORES = {"cider": "CIDEr-D", "bleu_4": "BLEU-4", "bleu_1": "BLEU-1", "rouge_l": "ROUGE-L"}
SCORES |= {"meteor": "METEOR", "true": "true %"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(search.Search):
    """Settings for the scores of captions, and for the search by which the decoder writes them."""

    every_steps: int
    batch_size: int
    splits: tuple[str, ...]  # splits of the table at the end; data.eval_split chooses the best checkpoint
    select_images: int  # number of photos of data.eval_split to caption during training; 0: all
    bootstrap_samples: int


class _Picture(NamedTuple):
    """The references that a caption of a picture is scored against."""

    references: list[str]  # captions that people wrote, tokenised
    kinds: frozenset[str]  # of those captions
    scene: str  # JSON, or empty


class Evaluator(StageEvaluator, WritesResults):
    """Write a caption of every picture. Metrics: `<score>/<name>`, with `_low` and `_high` in the table at the end.

    `final` also has `<score>/<kind>/<name>`. Scores: `caption`, the model's captions; `shuffled`, the same captions,
    each scored as the caption of another picture.
    """

    Settings = Settings
    losses = ("caption",)

    @classmethod
    def check(cls, cfg: Config) -> None:
        """Raise ConfigError where the vocabulary cannot start a caption or a split has no captions to score with."""
        text.load(cfg.data, cfg.text).frame  # noqa: B018
        for split in (cfg.data.eval_split, *evaluators.settings(cfg, "caption").splits):
            pipeline.open_split(cfg.data, split)

    def __init__(self, cfg: Config, predict: Predict, *, lower_frozen: bool = False):
        del lower_frozen  # too many states to keep
        self._cfg, self._predict, self._settings = cfg, predict, evaluators.settings(cfg, "caption")
        self._tokenizer = text.load(cfg.data, cfg.text)
        start, end = self._tokenizer.frame
        tokens = search.SpecialTokens(start, end, self._tokenizer.pad_id, cfg.text.length)
        self._write = predict.jit(search.captions, tokens, self._settings)

    def watch(self, params: Params, progress: Progress) -> dict[str, float]:
        """Return the scores on the first `select_images` pictures of data.eval_split."""
        split = self._cfg.data.eval_split
        count = len(pipeline.open_split(self._cfg.data, split))
        order = range(min(count, self._settings.select_images or count))
        pictures = self._pictures(split, order)
        metrics = self._scores("caption", pictures, self.write(params, split, order, progress), samples=1)
        return {name: value for name, value in metrics.items() if not name.endswith(("_low", "_high"))}

    def score(self, metrics: Mapping[str, float]) -> dict[str, float]:
        return {"cider": metrics["caption/cider"]}

    def summary(self, metrics: Mapping[str, float]) -> str:
        scores = [
            f"{name} {metrics[f'caption/{key}']:.2f}" for key, name in SCORES.items() if f"caption/{key}" in metrics
        ]
        return f"captions: {', '.join(scores)}"

    def final(self, params: Params, split: str, progress: Progress) -> dict[str, float]:
        """Return every metric of `split`, METEOR where it can be computed. Raises FloatingPointError on NaN."""
        order = range(len(pipeline.open_split(self._cfg.data, split)))
        pictures = self._pictures(split, order)
        written = self.write(params, split, order, progress)
        others = derangement(len(order), rng.stream_seed(self._cfg.seed, f"caption/{split}"))
        samples, metrics, meteor_metrics = self._settings.bootstrap_samples, {}, {}
        for name, captions in (("caption", written), ("shuffled", [written[other] for other in others])):
            metrics |= self._scores(name, pictures, captions, samples)
            meteor_metrics |= {} if meteor.missing() else self._meteor(name, pictures, captions, samples)
            for kind, part in _by_kind(pictures).items():
                part_pictures, part_captions = [pictures[index] for index in part], [captions[index] for index in part]
                metrics |= self._scores(f"{name}/{kind}", part_pictures, part_captions, samples)
        both = {"caption/meteor", "shuffled/meteor"} <= meteor_metrics.keys()
        return metrics | (meteor_metrics if both else {})

    def _pictures(self, split: str, order: Sequence[int]) -> list[_Picture]:
        """Read the references of each picture. Raises ConfigError where a picture has no captions."""
        records, pictures = pipeline.open_split(self._cfg.data, split), []
        for record in (records[index] for index in order):
            if not record["captions"]:
                raise ConfigError(
                    f"split {split!r} of {self._cfg.data.dataset!r} has pictures without captions to score with; "
                    "tools.evaluate --results=FILE writes the model's captions of them"
                )
            references = [ptb.tokenise(caption) for caption in record["captions"]]
            pictures.append(_Picture(references, frozenset(record["caption_kinds"]), record["scene"]))
        return pictures

    def results(self, params: Params, split: str, progress: Progress) -> tuple[str, int]:
        """Return the captions of all pictures in the format of COCO's evaluation server, and their number."""
        records = pipeline.open_split(self._cfg.data, split)
        written = self.write(params, split, range(len(records)), progress)
        ids = [records[index]["image_id"] for index in range(len(records))]
        captions = [{"image_id": id_, "caption": caption} for id_, caption in zip(ids, written, strict=True)]
        return json.dumps(captions) + "\n", len(captions)

    def write(self, params: Params, split: str, order: Sequence[int], progress: Progress) -> list[str]:
        """Return the caption of every picture in `order`. Random draws depend on the picture's place in it."""
        size, written, (ids, mask) = self._settings.batch_size, [], self._tokenizer.encode([""])
        empty = np.repeat(ids, size, axis=0), np.repeat(mask, size, axis=0)
        without = np.asarray(self._predict.lower_text(params, *empty))
        for images, _, valid in pipeline.images(self._cfg, split, size, self._predict.rows, order):
            states = np.asarray(self._predict.lower_image(params, images))
            rows = len(written) + np.arange(size, dtype=np.int32)
            words = np.asarray(self._write(params, Lower(image=states, text=without, text_mask=empty[1]), rows))
            written += [self._tokenizer.decode(ids) for ids in words[valid]]
            progress("pictures", len(written), len(order))
        return written

    def _meteor(self, name: str, pictures: list[_Picture], written: list[str], samples: int) -> dict[str, float]:
        """Return METEOR, or nothing where its program fails; the other scores stay."""
        try:
            scores = meteor.scores(*_tokenised(pictures, written), samples, self._cfg.seed)
        except meteor.MeteorError as error:
            logging.warning("no METEOR: %s", error)
            return {}
        return {f"{name}/{key}": value for key, value in scores.items()}

    def _scores(self, name: str, pictures: list[_Picture], written: list[str], samples: int) -> dict[str, float]:
        scores = caption.scores(*_tokenised(pictures, written), samples, self._cfg.seed)
        if all(picture.scene for picture in pictures):
            scenes = [shapes.Scene.from_json(picture.scene) for picture in pictures]
            right = [shapes.is_true(text, scene) for text, scene in zip(written, scenes, strict=True)]
            share = accuracy.mean(np.array(right), np.arange(len(right)), samples, self._cfg.seed)
            scores |= {key.replace("accuracy", "true"): value for key, value in share.items()}
        return {f"{name}/{key}": value for key, value in scores.items()} | {f"{name}/pictures": float(len(written))}

    @staticmethod
    def table(metrics: Mapping[str, float]) -> Table:
        """Return the scores with 95 % intervals, CIDEr-D by kind too, beside those of captions of other pictures.

        A line below says why METEOR is missing, where it is.
        """

        def row(label: str, kind: str, key: str) -> tuple[str, ...]:
            cells = []
            for score in ("caption", "shuffled"):
                value, low, high = (metrics[f"{score}/{kind}{key}{end}"] for end in ("", "_low", "_high"))
                cells.append(f"{value:.2f} [{low:.2f}, {high:.2f}]")
            return label, *cells

        kinds = [name.split("/")[1] for name in metrics if name.startswith("caption/") and name.endswith("/cider")]
        rows = [row(label, "", key) for key, label in SCORES.items() if f"caption/{key}" in metrics]
        rows[1:1] = [row(f"{SCORES['cider']}, {kind}", f"{kind}/", "cider") for kind in kinds if kind != "cider"]
        columns = ("score", "captions [95 %]", "of another picture [95 %]")
        lines = [f"{metrics['caption/pictures']:.0f} pictures"]
        if "caption/meteor" not in metrics:
            lines.append(f"METEOR is left out: {meteor.missing() or 'its program failed'}")
        return Table(columns, labels=1, rows=rows, lines=lines)


def _tokenised(pictures: list[_Picture], written: list[str]) -> tuple[list[str], list[list[str]]]:
    """Return the model's captions and the references, tokenised for scoring."""
    return [ptb.tokenise(text) for text in written], [picture.references for picture in pictures]


def _by_kind(pictures: list[_Picture]) -> dict[str, list[int]]:
    """Return kind -> indices of its pictures; empty where all are of one kind or one has captions of several kinds."""
    groups = collections.defaultdict(list)
    for index, picture in enumerate(pictures):
        groups[picture.kinds].append(index)
    separate = len(groups) > 1 and all(len(kinds) == 1 for kinds in groups)
    return dict(sorted((*kinds, part) for kinds, part in groups.items())) if separate else {}
