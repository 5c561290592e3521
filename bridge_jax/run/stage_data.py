"""The batches of a stage: from the files or from cached states, with partners from how the split was last ranked.

A ranking is written below the run's folder when it is made, under the step before which it was made. A resumed run
reads the one that it was drawing from, so it draws the same partners.
"""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from bridge_jax.config import Config, ConfigError, Stage, evaluators, objectives
from bridge_jax.data import image, pipeline
from bridge_jax.data.broken import BrokenError
from bridge_jax.data.padding import padded_batches
from bridge_jax.data.partners import Ranked
from bridge_jax.data.stored_rows import StoredRows
from bridge_jax.run import lower_cache, ranking, terminal
from bridge_jax.run.stop import Stop
from bridge_jax.step import sharding
from bridge_jax.step.predict import Predict
from bridge_jax.types import Params, Progress
from bridge_jax.workdir.checkpoint import Checkpoints
from bridge_jax.workdir.outcome import StorageError

FOLDER = "rankings"
IMAGES, TEXTS = "images.npy", "texts.npy"


class StageData:
    """The batches of one stage. `predict` is built for the stage's evaluator."""

    def __init__(self, cfg: Config, stage: Stage, mesh: Mesh, predict: Predict, saves: Checkpoints, stop: Stop):
        self._cfg, self._stage, self._mesh, self._predict = cfg, stage, mesh, predict
        self._saves, self._stop = saves, stop
        self._size = evaluators.settings(cfg, objectives.evaluator_of(stage)).batch_size  # of `predict`
        self._cache: lower_cache.LowerCache | None = None
        self._split: ranking.Split | None = None

    def stale(self, done: int) -> bool:
        """Return whether the split is to be ranked again, `done` steps into the stage."""
        every = self._cfg.mining.refresh_steps
        return bool(objectives.partners_brought(self._cfg, self._stage) and every and done % every == 0)

    def batches(self, params: Params, start: int, done: int, bar: Any) -> Any:
        """Return the batches from `done` steps into the stage on, which begins at step `start`. Close it.

        `bar`: the open `terminal.progress`, which shows how far a cache or a ranking is.
        """
        cfg, stage = self._cfg, self._stage
        if stage.cached_crops and not self._cache:
            with terminal.task(bar, "caching lower states") as progress, self._stop.outcome.spending("data"):
                watched = self._stop.watched(progress)
                self._cache = lower_cache.open_or_fill(cfg, stage, params, self._predict, watched)
        ranked = None
        if objectives.partners_brought(cfg, stage):
            with terminal.task(bar, "ranking the training split") as progress, self._stop.outcome.spending("data"):
                ranked = self._ranked(params, start, done, self._stop.watched(progress))
        make = dataclasses.replace(self._cache, ranked=ranked) if self._cache else None
        rows = sharding.host_rows(stage.batch_size, self._mesh)
        ds = pipeline.train(cfg, stage, seed_stream=stage.name, rows=rows, make_example=make, ranked=ranked)
        return pipeline.batches(ds, done, cfg.data)

    def _ranked(self, params: Params, start: int, done: int, progress: Progress) -> Ranked:
        """Rank the split where that is due, or read the ranking that the run was drawing from."""
        cfg = self._cfg
        records = pipeline.open_split(cfg.data, cfg.data.train_split)
        self._split = split = self._split or ranking.read_split(records, self._stage.caption_kinds)
        step = start + (done - done % cfg.mining.refresh_steps if cfg.mining.refresh_steps else 0)
        folder = Path(self._stop.outcome.folder) / FOLDER / str(step)
        if step == start + done:
            embedded = self._cached(params, split, progress) if self._cache else self._embedded(params, progress)
            found = ranking.rank(cfg, split, embedded, self._mesh, progress)
            self._keep(folder, found)
            if found.left_out:
                terminal.say(f"step {step}: {found.left_out} candidates are too good to be wrong and are left out")
        elif not (folder / TEXTS).exists():
            raise ConfigError(
                f"{folder} is not there: the run was drawing partners from that ranking of the split. Bring it back, "
                "or start again in a new --workdir, with config.init_from to keep the parameters"
            )
        images, texts = (StoredRows.open(folder / name) for name in (IMAGES, TEXTS))
        return Ranked(images, texts, split.first, cfg.mining.partners)

    def _keep(self, folder: Path, found: ranking.Found) -> None:
        """Write a ranking, and remove those that no kept checkpoint draws from. Raises StorageError."""
        if jax.process_index() == 0:
            try:
                _write(folder, found)
                steps = sorted(int(path.name) for path in folder.parent.iterdir() if path.name.isdigit())
                oldest = min([*self._saves.steps(), int(folder.name)])
                needed = max((step for step in steps if step <= oldest), default=0)
                for step in steps:
                    if step < needed:
                        shutil.rmtree(folder.parent / str(step))
            except OSError as error:
                raise StorageError(
                    f"the ranking {folder} could not be saved: {error}; checkpoints are whole"
                ) from error
        multihost_utils.sync_global_devices(f"ranking {folder.name}")

    def _cached(self, params: Params, split: ranking.Split, progress: Progress) -> ranking.Embedded:
        """Embed the split from its cached states: each picture's first crop, and the captions that the stage draws."""
        cache, embed, drawn = self._cache, self._predict, np.flatnonzero(split.drawn)
        assert cache is not None

        def images(rows: np.ndarray) -> Any:
            return embed.unimodal_image(params, np.stack([cache.image.read(row, 0) for row in rows]))

        def texts(places: np.ndarray) -> Any:
            rows = drawn[places]
            return embed.unimodal_text(params, np.stack([cache.text.read(row) for row in rows]), cache.text_mask[rows])

        of_images = np.concatenate(list(self._batched(images, len(cache.image_ids), "pictures", progress)))
        of_texts = np.zeros((len(split.drawn), of_images.shape[1]), np.float32)
        of_texts[drawn] = np.concatenate(list(self._batched(texts, len(drawn), "captions", progress)))
        return ranking.Embedded(of_images, ~cache.broken, of_texts)

    def _batched(self, embed: Any, count: int, what: str, progress: Progress) -> Iterator[np.ndarray]:
        """Yield `embed(rows)` for batches of `count` rows."""
        for rows, valid in padded_batches(count, self._size):
            yield np.asarray(embed(rows))[valid]
            progress(what, int(rows[-1]) + 1, count)

    def _embedded(self, params: Params, progress: Progress) -> ranking.Embedded:
        """Embed the split by the whole towers, every picture seen as in evaluation."""
        cfg, embed, size = self._cfg, self._predict, self._size
        records, px = pipeline.open_split(cfg.data, cfg.data.train_split), cfg.vision.image_px
        seen = np.ones(len(records), bool)

        def view(position: int) -> np.ndarray:
            try:
                return image.eval_view(records[position]["image"], px, cfg.data.squash)
            except BrokenError:
                seen[position] = False
                return np.zeros((px, px, 3), np.uint8)

        images, texts = [], []
        for first, views in pipeline.batched(view, len(records), size, cfg.data.threads, embed.rows):
            images.append(np.asarray(embed.unimodal_image(params, embed.lower_image(params, np.stack(views)))))
            progress("pictures", min(first + size, len(records)), len(records))
        for ids, mask, _, _, valid in pipeline.captions(cfg, cfg.data.train_split, size, skip=True):
            texts.append(np.asarray(embed.unimodal_text(params, embed.lower_text(params, ids, mask), mask))[valid])
            progress("captions", len(texts) * size, 0)
        on_hosts = np.asarray(multihost_utils.process_allgather(seen)).reshape(
            -1, len(records)
        )  # each has seen its rows
        return ranking.Embedded(np.concatenate(images)[: len(records)], on_hosts.min(axis=0), np.concatenate(texts))


def _write(folder: Path, found: ranking.Found) -> None:
    temporary = folder.with_name(f"{folder.name}.writing")
    for old in (temporary, folder):
        shutil.rmtree(old, ignore_errors=True)
    temporary.mkdir(parents=True)
    np.save(temporary / IMAGES, found.images)
    np.save(temporary / TEXTS, found.texts)
    temporary.rename(folder)
