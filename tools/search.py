"""Search a folder of photos with a checkpoint.

    python -m tools.search build PHOTOS --workdir=runs/shapes --index=photos.index
    python -m tools.search query "a red circle above a blue square" --index=photos.index
    python -m tools.search query "circle + red - square" --index=photos.index
    python -m tools.search query --photo=x.jpg --index=photos.index
    python -m tools.search serve --index=photos.index

`build` brings an index up to date too, and goes on where it was killed. `query` prints the best photos: by the bridge
their score, how likely the text is true of them and the match logit, and the unimodal score of the embeddings alone.
`serve` is the same as a page; it needs the extra `serve`. `--approximate` builds an approximate index beside the exact
one, if that finds enough for texts, and searches it; it needs the extra `approximate`.

Exit code 2: it cannot be done, with one line that says why; 4: another build is at work; 5: the disk is full.
"""

import contextlib
import json
import secrets
import socket
from pathlib import Path

import numpy as np
from absl import flags

from bridge_jax.config import ConfigError, nearest
from bridge_jax.index import approximate, build, query, store
from bridge_jax.index.model import Model, open_model
from bridge_jax.index.query import Answer, Search
from bridge_jax.index.refusal import KEPT, Refusal
from bridge_jax.run import command_line, terminal

COMMANDS = ("build", "query", "serve")
LEAST_TOKEN = 16  # characters
_INDEX = flags.DEFINE_string("index", None, "Folder of the index.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder that bridge_jax.main trained in; without it, that of the index.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "build: a step, `best` or `latest`.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "build: folder of the prepared data; without it, that of training.")
_VOCABULARY = flags.DEFINE_string("vocabulary", "", "build: the vocabulary file; without it, that of training.")
_NO_STATES = flags.DEFINE_bool(
    "no_states", False, "build: store no lower states; a query computes those of the photos that it reranks."
)
_REFUSAL = flags.DEFINE_bool("refusal", True, "build: learn from held-out pairs when no photo matches a text.")
_APPROXIMATE = flags.DEFINE_bool(
    "approximate",
    None,
    "build: make an approximate index too, if it finds enough for texts; without the flag, where there is one already. "
    "query, serve: search it in place of the exact one.",
)
_PHOTO = flags.DEFINE_string("photo", "", "query: a photo to find the like of, in place of a text.")
_RERANK = flags.DEFINE_bool("rerank", True, "query: look at the best with the bridge.")
_TOP_K = flags.DEFINE_integer("top_k", 100, "query: number of photos that the bridge looks at.", lower_bound=1)
_SHOW = flags.DEFINE_integer("show", 10, "query: number of photos to print.", lower_bound=1)
_FOLDER = flags.DEFINE_string("folder", "", "query: only photos of this folder in PHOTOS, and of those in it.")
_SINCE = flags.DEFINE_string("since", "", "query: only photos of this day or later, such as 2026-01-31.")
_UNTIL = flags.DEFINE_string("until", "", "query: only photos of this day or earlier.")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "serve: address to listen on; beyond this machine it needs --token.")
_PORT = flags.DEFINE_integer(
    "port", 8000, "serve: port to listen on; 0: any that is free.", lower_bound=0, upper_bound=65535
)
_TOKEN = flags.DEFINE_string("token", "", "serve: only those who know it get an answer.")
_JSON = flags.DEFINE_bool("json", False, "query: print an object a query, for programs.")


def build_index(photos: str) -> None:
    """Build an index or bring it up to date, and say what changed."""
    data = {"data_dir": _DATA_DIR.value, "vocabulary": _VOCABULARY.value}
    model = open_model(
        command_line.required(_WORKDIR), _CHECKPOINT.value, **{name: value for name, value in data.items() if value}
    )
    index = Path(command_line.required(_INDEX))
    with terminal.progress() as bar, terminal.task(bar, "indexing") as progress:
        built = build.build(
            model,
            Path(photos),
            index,
            build.Parts(not _NO_STATES.value, _REFUSAL.value, _APPROXIMATE.value),
            say=terminal.say,
            progress=progress,
        )
    for file in built.skipped:
        terminal.say(f"skipped {shown(file.path)}: {file.fault}")
    told = ", ".join(f"{count} {name}" for name, count in built.changes._asdict().items() if count)
    unused = f"; {built.unused} rows of deleted photos remain" if built.unused else ""
    terminal.say(f"{index}: {built.photos} photos ({told}), {len(built.skipped)} skipped{unused}")
    if refusal := built.refusal:
        terminal.say(f"{index}: {_told(refusal)}")
    if graph := built.approximate:
        recall = f"{100 * graph.recall:.1f} % of the {approximate.NEAREST} nearest photos of {graph.queries}"
        terminal.say(f"{index}: the approximate index finds {recall}; --approximate searches it")


def _told(refusal: Refusal) -> str:
    """Say what the refusal is worth."""
    alarms = f"{100 * refusal.false_alarms:.0f} % of {refusal.captions} captions whose photo is not there"
    if refusal.used:
        return f'"no photo matches" keeps {100 * KEPT:.0f} % of the true photos; {alarms} raise a false alarm'
    return f'this checkpoint cannot say "no photo matches": {alarms} would raise a false alarm'


def open_search() -> Search:
    """Open the index and the checkpoint that made it. Raises ConfigError where the workdir has another one now."""
    index = command_line.required(_INDEX)
    return query.open_search(_model_of(store.open_index(index)), index, approximate=bool(_APPROXIMATE.value))


def _model_of(index: store.Index) -> Model:
    workdir = _WORKDIR.value or index.manifest.workdir
    step = str(index.manifest.step) if not _WORKDIR.value else _CHECKPOINT.value
    return open_model(workdir, step, vocabulary=str(index.folder / store.TOKENIZER))


def answer(texts: list[str]) -> None:
    """Print the answer to every text, or to the photo."""
    if bool(texts) == bool(_PHOTO.value):
        raise ConfigError('expected a text or --photo, such as python -m tools.search query "a dog" --index=DIR')
    where = query.Filter(_FOLDER.value, _SINCE.value, _UNTIL.value)
    encoded = query.open_photo(_PHOTO.value) if _PHOTO.value else b""
    search = open_search()
    times: list[float] = []

    def ask(text: str) -> Answer:
        if encoded:
            return search.pixels(encoded, k=_TOP_K.value, where=where)
        return search.text(text, k=_TOP_K.value, rerank=_RERANK.value, where=where)

    ask(texts[0] if texts else "")  # compiles, which is no part of any later query
    for text in texts or [_PHOTO.value]:
        found = ask(text)
        times.append(found.ms["all"])
        show(text, found, times)


def show(text: str, found: Answer, times: list[float]) -> None:
    """Print an answer."""
    p50, p95 = np.percentile(times, (50, 95))
    if _JSON.value:
        record = query.record(found) | {"query": text, "p50_ms": p50, "p95_ms": p95}
        print(json.dumps(record | {"hits": record["hits"][: _SHOW.value]}))
        return
    parts = ", ".join(f"{name} {ms:.1f}" for name, ms in found.ms.items() if name != "all")
    print(f"{text}: {found.ms['all']:.1f} ms ({parts}); p50 {p50:.1f}, p95 {p95:.1f} of {len(times)}")
    if found.matches is False:
        print("no photo matches; the nearest:" if found.hits else "no photo matches")
    print(f"{'likely':>7} {'score':>8} {'logit':>8} {'unimodal':>8}  photo")
    for hit in found.hits[: _SHOW.value]:
        likely = "" if hit.likely is None else f"{100 * hit.likely:.0f} %"
        logit = "" if hit.logit is None else f"{hit.logit:.2f}"
        gone = "  (gone since the index was built)" if hit.gone else ""
        print(f"{likely:>7} {hit.score:>8.2f} {logit:>8} {hit.unimodal:>8.2f}  {shown(hit.photo.path)}{gone}")


def serve_page() -> None:
    """Serve the page until it is interrupted."""
    try:
        import uvicorn

        from bridge_jax.index import serve
    except ModuleNotFoundError as error:
        raise ConfigError(f"serve needs the package {error.name}: pip install 'bridge_jax[serve]'") from error
    host, token = _HOST.value, _TOKEN.value
    local = host in serve.LOOPBACK
    if not local and len(token) < LEAST_TOKEN:
        raise ConfigError(
            f"--host={host} is beyond this machine: give a --token of {LEAST_TOKEN} or more characters, such as "
            f"--token={secrets.token_urlsafe(16)}"
        )
    try:
        listening = socket.create_server((host, _PORT.value))
    except OSError as error:
        raise ConfigError(f"--host={host} --port={_PORT.value}: {error.strerror or error}") from error
    search = open_search()
    app = serve.app(search, hosts=serve.LOOPBACK if local else ("*",), token=token, say=terminal.say)
    search.text("photo", k=serve.MOST_HITS)  # compiles
    address = f"http://{host}:{listening.getsockname()[1]}/{f'?token={token}' if token else ''}"
    terminal.say(f"{len(search.index.photos)} photos at {address}; Ctrl-C ends it")
    settings = uvicorn.Config(app, log_level="warning", limit_concurrency=64, server_header=False)
    with listening, contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(settings).run(sockets=[listening])


def shown(path: str) -> str:
    """Return a path that can be printed, whatever its bytes are."""
    return path.encode(errors="backslashreplace").decode()


def main(argv: list[str]) -> None:
    """Run a command."""
    _, command, *words = [*argv, ""] if len(argv) < 2 else argv
    if command == "build":
        if len(words) != 1:
            raise ConfigError(f"expected one folder of photos, got {len(words)}")
        build_index(words[0])
    elif command == "query":
        answer(words)
    elif command == "serve" and not words:
        serve_page()
    else:
        raise ConfigError(f"{command!r} is no command: expected build, query or serve; {nearest(command, COMMANDS)}")


if __name__ == "__main__":
    command_line.run(main, positional=100)
