"""Write the page of a workdir: what its files tell, and what its best checkpoint shows on photos."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from jax.sharding import Mesh
from markupsafe import Markup

from bridge_jax.config import Config, ConfigError
from bridge_jax.config import Mesh as MeshConfig
from bridge_jax.evals.scores.rankings import Rankings
from bridge_jax.report import attention, by_words, compare, disagreements, examples, looks, page, plane, points, story
from bridge_jax.report.gallery import open_gallery
from bridge_jax.report.page import Section
from bridge_jax.report.points import Model
from bridge_jax.report.story import Story
from bridge_jax.step import sharding
from bridge_jax.step.params import abstract_params
from bridge_jax.step.predict import build_predict
from bridge_jax.types import Params, Progress
from bridge_jax.workdir import atomic, rankings
from bridge_jax.workdir.checkpoint import Checkpoints
from bridge_jax.workdir.rankings import About

Start = Callable[[Config, Mesh], Params]  # the parameters before training


@dataclasses.dataclass(frozen=True)
class Asked:
    """Choose the contents of a page. Empty texts: the split that chose the checkpoint, the run's own data, no file."""

    split: str = ""
    data_dir: str = ""
    photos: int = 48  # whose words are shown with their attention; 0: none
    points: int = 500  # photos on the map of embeddings, each with a caption; 0: no map
    parquet: str = ""  # file for the points of the map


def write(workdir: str, out: Path, asked: Asked, start: Start, progress: Progress) -> Story:
    """Write the page to `out`, and return the story. Raises ConfigError where there is none to tell."""
    told = story.read(workdir)
    chosen = choose(told, asked)
    seen = list(_seen(told, chosen, asked, out, start, progress)) if chosen else [_none(told)]
    atomic.write_text(out, page.render(told, seen))
    return told


def write_two(first: str, second: str, out: Path, data_dir: str = "") -> tuple[Story, Story]:
    """Write the page of two workdirs to `out`, and return their stories. Raises ConfigError as `write`."""
    told = story.read(first), story.read(second)
    atomic.write_text(out, compare.render(*told, [*_disagreements(*told, data_dir)]))
    return told


def _disagreements(first: Story, second: Story, data_dir: str) -> Iterator[Section]:
    """Yield a section of each split that both ranked, with the queries that only one of them finds."""
    for number, (about, *two) in enumerate(compare.shared(first.workdir, second.workdir)):
        try:
            data = _config(first, about, data_dir).data
            content = disagreements.section((two[0], two[1]), open_gallery(data, about.split, about.data))
        except ConfigError as error:
            content = _refused(error)
        yield Section(f"only-{number}", f"Queries that only one finds, {about.dataset}/{about.split}", content)


def _config(told: Story, about: About, data_dir: str) -> Config:
    """Return the config of the checkpoint that was ranked, with the data set that it was ranked on."""
    cfg = Checkpoints(told.workdir, read_only=True).config(about.step)
    data = dataclasses.replace(cfg.data, dataset=about.dataset, data_dir=data_dir or cfg.data.data_dir)
    return dataclasses.replace(cfg, data=data)


def choose(told: Story, asked: Asked) -> tuple[About, Rankings] | None:
    """Return the rankings of the split that is asked for, else of the one that chose the checkpoint, else the first.

    Raises ConfigError where the split that is asked for has none.
    """
    every = rankings.read(Path(told.workdir))
    if asked.split:
        named = [each for each in every if each[0].split == asked.split]
        if not named:
            there = ", ".join(about.split for about, _ in every) or "none"
            raise ConfigError(f"--split: the workdir has no rankings of {asked.split!r}, but of: {there}")
        return named[0]
    data = told.config["data"]
    own = [each for each in every if each[0][:2] == (data["dataset"], data["eval_split"])]
    return next(iter([*own, *every]), None)


def _none(told: Story) -> Section:
    command = f"python -m tools.evaluate --workdir={told.workdir} --split=SPLIT --rerank"
    text = "The run left no rankings: it is not finished, has no bridge, or is older than they are. To make them:"
    return Section("queries", "Queries", Markup("<p>{} <code>{}</code></p>").format(text, command))


def _seen(
    told: Story, chosen: tuple[About, Rankings], asked: Asked, out: Path, start: Start, progress: Progress
) -> Iterator[Section]:
    """Yield the sections about photos and captions. One that cannot be made says why."""
    about, found = chosen
    where = f"{about.dataset}/{about.split}, step {about.step}"
    try:
        cfg = _config(told, about, asked.data_dir)
        gallery = open_gallery(cfg.data, about.split, about.data)
    except ConfigError as error:
        yield Section("queries", "Queries", _refused(error))
        return
    yield Section("queries", "Queries", examples.section(found, gallery, where))
    yield Section("words", "Recall by words", by_words.section(found, gallery))
    if not asked.photos and not asked.points:
        return
    mesh = sharding.make_mesh(MeshConfig(data=-1, fsdp=1, tensor=1))  # of this machine, whichever mesh trained it
    saves = Checkpoints(told.workdir, read_only=True)
    params = saves.restore_params(about.step, abstract_params(cfg, mesh))
    model = Model(cfg, params, build_predict(cfg, mesh), lambda: start(cfg, mesh))

    def attended() -> Markup:
        seen = attention.look(cfg, params, model.predict, gallery, asked.photos, progress)
        return looks.section(seen, gallery)

    def mapped() -> Markup:
        where_kept = out.with_suffix(".map.npz")
        found = points.of(model, gallery, about, asked.points, where_kept, progress)
        if asked.parquet:
            points.write_parquet(Path(asked.parquet), gallery, about.split, found)
        return plane.section(found.layouts, found.missing)

    if asked.photos:
        yield Section("looks", "Where words look", _made(attended))
    if asked.points:
        yield Section("map", "Map of embeddings", _made(mapped))


def _made(make: Callable[[], Markup]) -> Markup:
    try:
        return make()
    except ConfigError as error:
        return _refused(error)


def _refused(error: ConfigError) -> Markup:
    return Markup("<p>Not shown: {}</p>").format(str(error))
