"""Write a checkpoint as StableHLO programs (jax.export) that serve on CPU, GPU and TPU without this package.

    python -m tools.export_stablehlo --workdir=runs/flickr8k --out=served

`served/README.md` has the lines that run them; what the folder holds is said in bridge_jax/interop/stablehlo.py.
Exit code 2: it cannot be done, with one line that says why; then nothing was written.
"""

from absl import flags

from bridge_jax.interop import stablehlo, torch_export
from bridge_jax.run import command_line, terminal
from bridge_jax.workdir.checkpoint import Checkpoints

_WORKDIR = flags.DEFINE_string("workdir", None, "The folder that bridge_jax.main trained in.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "A step, or `best` or `latest`.")
_OUT = flags.DEFINE_string("out", None, "The folder to write; it must not exist.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Where the prepared data lies, if not where training found it.")
_VOCABULARY = flags.DEFINE_string("vocabulary", "", "The text tower's vocabulary, if not where training found it.")


def main(argv: list[str]) -> None:
    """Export, and say what was written."""
    del argv
    workdir, out = command_line.required(_WORKDIR), command_line.required(_OUT)
    torch_export.check_new(out)  # before minutes of reading
    saves = Checkpoints(workdir, read_only=True)
    step = saves.choose(_CHECKPOINT.value)
    given = {"data_dir": _DATA_DIR.value, "vocabulary": _VOCABULARY.value}
    count = stablehlo.export(saves, step, out, **{name: value for name, value in given.items() if value})
    terminal.say(f"{out}: step {step} of {workdir}, {count:,} parameters, for {', '.join(stablehlo.PLATFORMS)}")


if __name__ == "__main__":
    command_line.run(main)
