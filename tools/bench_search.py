"""Benchmark the search: python -m tools.bench_search --workdir=runs/shapes

Prints, on this machine and with the checkpoint of the workdir,

    search   milliseconds of the exact search over synthetic embeddings of the checkpoint's width, p50 and p95
    rerank   milliseconds of a query whose candidates the bridge reranks from stored states: the median, and its parts
    rival    milliseconds of a whole query, text to photos, in turns: medians. By a CLIP bi-encoder of
             sentence-transformers and by ours; then with the candidates reranked, by ours from stored states and from
             the photos, and by a CrossEncoder of sentence-transformers. Their weights are random, their towers as
             large as ours (`tools/rivals.py`). It needs the extra `rivals`
    build    photos/s of a build over a folder, beside those of the image tower alone on decoded photos
    refusal  how many true pairs of --split are kept by thresholds that keep so many of data.eval_split, and how many
             captions raise a false alarm when their photo is not there

Run nothing else on the machine meanwhile.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags

from bridge_jax.data import pipeline
from bridge_jax.index import build, held_out, store
from bridge_jax.index.exact import nearest
from bridge_jax.index.model import Model, open_model
from bridge_jax.index.query import Search
from bridge_jax.index.refusal import calibrate
from bridge_jax.run import command_line
from tools import figures, rivals

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder that bridge_jax.main trained in.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of the prepared data; without it, that of training.")
_VOCABULARY = flags.DEFINE_string("vocabulary", "", "The vocabulary file; without it, that of training.")
_PHOTOS = flags.DEFINE_string("photos", "", "Folder to build an index of; without it, the photos of --split.")
_SPLIT = flags.DEFINE_string("split", "test", "Split whose captions have no photo in the index.")
_EMBEDDINGS = flags.DEFINE_integer("embeddings", 100_000, "Synthetic embeddings to search.", lower_bound=1)
_CANDIDATES = flags.DEFINE_integer("candidates", 100, "Photos that the bridge looks at.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 50, "Queries to time.", lower_bound=1)
_PARTS = flags.DEFINE_list("parts", "search,rerank,rival,build,refusal", "The parts to run.")
_FEW_ROUNDS = 5  # of the ways that run an image tower over every candidate
KEPT = (0.5, 0.8, 0.9, 0.95, 0.99)


def search(width: int) -> str:
    """Time the exact search over random directions."""
    draw, rows = np.random.default_rng(0), _EMBEDDINGS.value
    embeddings = draw.normal(size=(rows, width)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    times = []
    for asked in embeddings[draw.integers(rows, size=_ROUNDS.value)]:
        started = time.perf_counter()
        nearest(embeddings, asked, _CANDIDATES.value, np.ones(rows, bool))
        times.append(1000 * (time.perf_counter() - started))
    p50, p95 = np.percentile(times[1:] or times, (50, 95))
    figures.keep("ms of an exact search, p95", p95, figures.LESS)
    return f"{rows} embeddings of width {width}: p50 {p50:.1f} ms, p95 {p95:.1f} ms"


def rerank(opened: Search) -> str:
    """Time whole queries."""
    opened.text("photo", k=_CANDIDATES.value)  # compiles
    answers = [opened.text(f"photo {i}", k=_CANDIDATES.value) for i in range(_ROUNDS.value)]
    parts = {name: np.median([answer.ms[name] for answer in answers]) for name in answers[0].ms}
    told = ", ".join(f"{name} {ms:.1f}" for name, ms in parts.items() if name != "all")
    figures.keep("ms of a query reranked", parts["all"], figures.LESS)
    return f"{len(answers[0].hits)} candidates: median {parts['all']:.1f} ms ({told})"


def rival(opened: Search, folder: Path) -> str:
    """Time whole queries for captions of the split, each way over the photos of the index, one way after another."""
    try:
        bi_encoder, cross_encoder = rivals.bi_encoder(opened.model, folder), rivals.cross_encoder(opened.model, folder)
    except ModuleNotFoundError as error:
        return f"left out, as there is no package {error.name}: pip install 'bridge_jax[rivals]'"
    size = len(opened.index.photos), opened.model.cfg.bridge.embed_width
    corpus = np.random.default_rng(0).normal(size=size).astype(np.float32)
    corpus /= np.linalg.norm(corpus, axis=1, keepdims=True)
    k, records = min(_CANDIDATES.value, size[0]), pipeline.open_split(opened.model.cfg.data, _SPLIT.value)
    unstored = dataclasses.replace(opened, index=dataclasses.replace(opened.index, states=None))
    files = [opened.index.file(photo) for photo in list(opened.index.photos.values())[:k]]

    def bi_encoded(text: str) -> object:
        asked = np.asarray(bi_encoder.encode(text, normalize_embeddings=True))
        return nearest(corpus, asked, k, np.ones(len(corpus), bool))

    def cross_encoded(text: str) -> object:
        bi_encoded(text)  # finds the candidates
        return cross_encoder.rank(text, [str(file) for file in files])

    ways: dict[str, tuple[Callable[[str], object], int]] = {
        "CLIP bi-encoder": (bi_encoded, _ROUNDS.value),
        "ours, unimodal": (lambda text: opened.text(text, k=k, rerank=False), _ROUNDS.value),
        f"ours, {k} reranked": (lambda text: opened.text(text, k=k), _ROUNDS.value),
        f"ours, {k} reranked from their files": (lambda text: unstored.text(text, k=k), _FEW_ROUNDS),
        f"CrossEncoder, {k} reranked": (cross_encoded, _FEW_ROUNDS),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(_ROUNDS.value + 1):  # the first compiles
        for name, (ask, rounds) in ways.items():
            if turn <= rounds:
                started = time.perf_counter()
                ask(records[turn % len(records)]["captions"][0])
                times[name].append(1000 * (time.perf_counter() - started))
    medians = {name: float(np.median(ms[1:])) for name, ms in times.items()}
    first, unimodal, *reranked, last = medians
    figures.keep(f"ms of a query, {unimodal}", medians[unimodal], figures.LESS, first, medians[first])
    for name in reranked:
        figures.keep(f"ms of a query, {name}", medians[name], figures.LESS, last, medians[last])
    sizes = {"ours": opened.model.params, "CLIP": bi_encoder, "CrossEncoder": cross_encoder}
    told = ", ".join(f"{name} {ms:.1f} ms" for name, ms in medians.items())
    millions = ", ".join(f"{name} {rivals.parameters(one) / 1e6:.1f}" for name, one in sizes.items())
    return f"{size[0]} photos, medians: {told}; millions of parameters: {millions}"


def build_rate(model: Model, photos: Path, index: Path) -> str:
    """Compare a build with the image tower alone, which runs on one decoded batch again and again."""
    blank = np.zeros((model.batch, model.cfg.vision.image_px, model.cfg.vision.image_px, 3), np.uint8)
    model.photos(blank)  # compiles
    started = time.perf_counter()
    done = build.build(model, photos, index, build.Parts(refusal=False), say=print, progress=lambda *_: None)
    built = done.photos / (time.perf_counter() - started)
    rounds = max(1, min(20, done.photos // model.batch))
    started = time.perf_counter()
    for _ in range(rounds):
        np.asarray(model.photos(blank)[1])
    tower = rounds * model.batch / (time.perf_counter() - started)
    figures.keep("photos/s of a build", built, figures.MORE, "the image tower alone", tower)
    return f"{done.photos} photos: {built:.0f} photos/s, image tower alone {tower:.0f}, {100 * built / tower:.0f} %"


def refusal(model: Model) -> list[str]:
    """Calibrate on data.eval_split and measure on --split; also by each of the two scores alone."""
    chosen, other = (
        held_out.pairs(model, split, lambda *_: None) for split in (model.cfg.data.eval_split, _SPLIT.value)
    )
    made = calibrate(*chosen)
    lines = [f"{len(other.true)} captions of {_SPLIT.value!r}, searched in {other.photos} photos"]
    by = {"probability": made.probability, "match logit": lambda x: x[:, 0], "unimodal": lambda x: x[:, 1]}
    for name, score in by.items():
        for kept in KEPT:
            threshold = np.quantile(score(chosen.true), 1 - kept, method="lower")
            true = np.mean(score(other.true) >= threshold)
            false = np.mean([score(candidates).max() >= threshold for candidates in other.wrong])
            lines.append(
                f"{name} {threshold:6.2f}: {100 * true:5.1f} % of true pairs kept, {100 * false:5.1f} % false alarms"
            )
    return lines


def write_photos(model: Model, folder: Path) -> Path:
    """Write the photos of a split as files."""
    for number, record in enumerate(pipeline.open_split(model.cfg.data, _SPLIT.value)):
        (folder / f"{number:06}.jpg").write_bytes(record["image"])
    return folder


def main(argv: list[str]) -> None:
    """Print a line for each part."""
    del argv
    data = {"data_dir": _DATA_DIR.value, "vocabulary": _VOCABULARY.value}
    model = open_model(command_line.required(_WORKDIR), **{name: value for name, value in data.items() if value})
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch) / "index"
        if {"build", "rerank", "rival"} & set(_PARTS.value):
            photos = Path(scratch) / "photos"
            photos.mkdir()
            print("build:", build_rate(model, Path(_PHOTOS.value or write_photos(model, photos)), index))
        if "search" in _PARTS.value:
            print("search:", search(model.cfg.bridge.embed_width))
        if "rerank" in _PARTS.value:
            print("rerank:", rerank(Search(model, store.open_index(index))))
        if "rival" in _PARTS.value:
            print("rival:", rival(Search(model, store.open_index(index)), Path(scratch)))
        if "refusal" in _PARTS.value:
            print("refusal:", "\n  ".join(refusal(model)))


if __name__ == "__main__":
    command_line.run(main)
