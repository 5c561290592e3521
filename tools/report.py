"""Write what a run did and learned to one HTML file.

    python -m tools.report runs/shapes
    python -m tools.report runs/shapes --split=val --out=shapes.html
    python -m tools.report runs/shapes --parquet=points.parquet
    python -m tools.report runs/shapes runs/mine --out=both.html

It shows how the run ended, its scores and its curves; the queries that reranking helped and hurt, with their photos;
where words look on photos, and whether those maps are true; and the map of embeddings, which needs the extra `report`.
The page reads no other file and no network, so it can be mailed: photos are in it. Without --out it is
WORKDIR/report.html. Beside it stands report.map.npz with the coordinates of the map; a second report reads them.
Nothing else changes. The run may still be going on, once a stage is finished.

With two workdirs the page sets both runs side by side, with a paired test on the photos that both ranked and the
queries that only one of them finds. Without --out it is two.html in the first.

Exit code 2: there is no page, with one line that says why; or a kill cut the last line of metrics.jsonl, and the page
is there without it.
"""

from pathlib import Path

from absl import flags

from bridge_jax.config import ConfigError
from bridge_jax.report import write
from bridge_jax.run import command_line, origin, terminal

_OUT = flags.DEFINE_string("out", "", "File to write; without it, report.html in the workdir.")
_SPLIT = flags.DEFINE_string("split", "", "Split whose queries to show; without it, the one that chose the checkpoint.")
_PHOTOS = flags.DEFINE_integer("photos", 48, "Photos to show the attention of words on; 0: none.", lower_bound=0)
_POINTS = flags.DEFINE_integer("points", 500, "Photos on the map of embeddings; 0: no map.", lower_bound=0)
_PARQUET = flags.DEFINE_string("parquet", "", "File for the points of the map, as embedding-atlas reads them.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of the prepared data; without it, that of training.")


def main(argv: list[str]) -> None:
    """Write the page, and say where it is."""
    if len(argv) < 2:
        raise ConfigError("expected a workdir, such as python -m tools.report runs/shapes")
    workdir, second = argv[1], argv[2:]
    out = Path(_OUT.value or Path(workdir) / ("two.html" if second else "report.html"))
    if not out.parent.is_dir():
        raise ConfigError(f"--out: {out.parent} is no folder")
    if second:
        stories = write.write_two(workdir, second[0], out, _DATA_DIR.value)
    else:
        asked = write.Asked(_SPLIT.value, _DATA_DIR.value, _PHOTOS.value, _POINTS.value, _PARQUET.value)
        with terminal.progress() as bar, terminal.task(bar, "looking") as progress:
            stories = (write.write(workdir, out, asked, origin.initial, progress),)
    print(out)
    for told in stories:
        if told.torn:
            raise ConfigError(
                f"{told.workdir}/metrics.jsonl: a kill cut its last line; the page leaves it out, all others are on it"
            )


if __name__ == "__main__":
    command_line.run(main, positional=2)
