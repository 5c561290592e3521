"""Count the masked words that the mlm head restores, with the right picture and with another one.

Every caption of a split is masked once, in places that depend only on the seed and the caption's number. The model is
scored again with every picture taken from another record, which shows its gain from looking. With a mixture, each
data set that has the split is read, and scored by itself and together with the others.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from bridge_jax import rng
from bridge_jax.config import Config, evaluators
from bridge_jax.data import masking, pipeline, text
from bridge_jax.data.padding import padded_batches
from bridge_jax.data.records import has_split
from bridge_jax.evals.asking import derangement, kinds
from bridge_jax.evals.scores import accuracy
from bridge_jax.losses.mlm import words
from bridge_jax.models.bridge import BridgeModel
from bridge_jax.step.predict import Predict
from bridge_jax.types import Array, Lower, Params, Progress, Table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings for the accuracy of the words that the mlm head puts in the place of masked ones."""

    batch_size: int
    splits: tuple[str, ...]  # splits of the table at the end; this evaluator never chooses a checkpoint
    bootstrap_samples: int


class Evaluator(evaluators.Evaluator):
    """Restore masked words. Metrics: `<score>/accuracy` in percent of the masked words, for `mlm` and `shuffled`.

    Where several data sets have the split, also `<score>/<data set>/accuracy`.
    """

    Settings = Settings
    losses = ("mlm",)

    @classmethod
    def check(cls, cfg: Config) -> None:
        """Raise ConfigError where the vocabulary has no mask token or there is no such split."""
        text.load(cfg.data, cfg.text).mask_id  # noqa: B018
        for split in evaluators.settings(cfg, "mlm").splits:
            for one in _data_sets(cfg, split).values():
                pipeline.open_split(one.data, split)

    def __init__(self, cfg: Config, predict: Predict, *, lower_frozen: bool = False):
        del lower_frozen  # too many states to keep
        self._cfg, self._predict, self._settings = cfg, predict, evaluators.settings(cfg, "mlm")
        self._tokenizer = text.load(cfg.data, cfg.text)

    def final(self, params: Params, split: str, progress: Progress) -> dict[str, float]:
        """Return every metric of `split`."""
        data_sets, metrics = _data_sets(self._cfg, split), {}
        for score in ("mlm", "shuffled"):
            results, first = {}, 0
            for name, cfg in data_sets.items():
                pictures = np.arange(count := len(pipeline.open_split(cfg.data, split)))
                if score == "shuffled":
                    pictures = derangement(count, rng.stream_seed(cfg.seed, f"mlm/{split}"))
                hits, records = self._hits(cfg, params, split, pictures, progress)
                results[f"{score}/{name}"] = hits, first + records
                first += count
            whole = {score: tuple(map(np.concatenate, zip(*results.values(), strict=True)))}
            for prefix, (hits, records) in (whole | (results if len(results) > 1 else {})).items():
                interval = accuracy.mean(hits, records, self._settings.bootstrap_samples, self._cfg.seed)
                metrics |= {f"{prefix}/{key}": value for key, value in interval.items()}
                metrics[f"{prefix}/words"] = float(len(hits))
        return metrics

    def _hits(
        self, cfg: Config, params: Params, split: str, pictures: Sequence[int] | np.ndarray, progress: Progress
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return for every masked word whether it was restored (0 or 1), and the number of its record."""
        records, size = pipeline.open_split(cfg.data, split), self._settings.batch_size
        seed, fraction = rng.stream_seed(cfg.seed, f"mlm/{split}/masks"), cfg.losses["mlm"]["mask_fraction"]
        hits, record_numbers, first = [], [], 0
        order = [int(picture) for picture in pictures]
        for images, _, valid in pipeline.images(cfg, split, size, self._predict.rows, order):
            states = np.asarray(self._predict.lower_image(params, images))
            captions = [
                (row, number, caption)
                for row in range(int(valid.sum()))
                for number, caption in enumerate(records[first + row]["captions"])
            ]
            for places, valid in padded_batches(len(captions), size):
                part = [captions[place] for place in places]
                ids, mask = self._tokenizer.encode([caption for *_, caption in part])
                masked, chosen = ids.copy(), np.zeros(ids.shape, bool)
                for place, (row, number, _) in enumerate(part[: valid.sum()]):
                    generator = np.random.default_rng((seed, first + row, number))
                    masked[place], chosen[place] = masking.mask_tokens(
                        ids[place], mask[place], self._tokenizer, fraction, generator
                    )
                rows = [row for row, *_ in part]
                lower_text = np.asarray(self._predict.lower_text(params, masked, mask))
                lower = Lower(image=states[rows], text=lower_text, text_mask=mask)
                hits.append((np.asarray(self._predict.jit(likeliest)(params, lower)) == ids)[chosen])
                record_numbers.append(np.repeat(first + np.array(rows), chosen.sum(axis=1)))
            first += size
            progress("pictures", min(first, len(order)), len(order))
        return np.concatenate(hits).astype(np.float64), np.concatenate(record_numbers)

    @staticmethod
    def table(metrics: Mapping[str, float]) -> Table:
        """Return the accuracy with its 95 % interval, beside that with other records' pictures; also by data set."""

        def row(label: str, prefix: str) -> tuple[str, ...]:
            cells = []
            for score in ("mlm", "shuffled"):
                value, low, high = (metrics[f"{score}/{prefix}accuracy{end}"] for end in ("", "_low", "_high"))
                cells.append(f"{value:.1f} [{low:.1f}, {high:.1f}]")
            return label, f"{metrics[f'mlm/{prefix}words']:.0f}", *cells

        columns = ("captions", "masked words", "accuracy [95 %]", "picture shuffled [95 %]")
        rows = [row("all", ""), *(row(f"  {name}", f"{name}/") for name in kinds("mlm", metrics))]
        return Table(columns, labels=1, rows=rows)


def likeliest(model: BridgeModel, lower: Lower) -> Array:
    """Return the likeliest word at every position of masked texts, ids [B,T]."""
    return words(model, model.fused(lower)).argmax(axis=-1)


def _data_sets(cfg: Config, split: str) -> dict[str, Config]:
    """Return name -> config for every data set of the mixture that has `split`; without one, for `data.dataset`."""
    names = [name for name, _ in cfg.data.mixture]
    each = {name: dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, dataset=name)) for name in names}
    return {name: one for name, one in each.items() if has_split(one.data, split)} or {cfg.data.dataset: cfg}
