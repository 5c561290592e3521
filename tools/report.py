"""Write what a run did to one HTML file: what was run, how it ended, its scores and its curves.

    python -m tools.report runs/shapes
    python -m tools.report runs/shapes --out=shapes.html

The page reads no other file and no network, so it can be mailed. Without --out it is WORKDIR/report.html. Nothing else
in the workdir changes. The run may still be going on, once a stage is finished.

Exit code 2: there is no page, with one line that says why; or a kill cut the last line of metrics.jsonl, and the page
is there without it.
"""

from pathlib import Path

from absl import flags

from bridge_jax.config import ConfigError
from bridge_jax.report import page, story
from bridge_jax.run import command_line
from bridge_jax.workdir import atomic

_OUT = flags.DEFINE_string("out", "", "File to write; without it, report.html in the workdir.")


def main(argv: list[str]) -> None:
    """Write the page, and say where it is."""
    if len(argv) < 2:
        raise ConfigError("expected a workdir, such as python -m tools.report runs/shapes")
    workdir = argv[1]
    out = Path(_OUT.value or Path(workdir) / "report.html")
    if not out.parent.is_dir():
        raise ConfigError(f"--out: {out.parent} is no folder")
    told = story.read(workdir)
    atomic.write_text(out, page.render(told))
    print(out)
    if told.torn:
        raise ConfigError(
            f"{workdir}/metrics.jsonl: a kill cut its last line; the page leaves it out, all others are on it"
        )


if __name__ == "__main__":
    command_line.run(main, positional=1)
