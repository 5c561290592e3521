"""Write a checkpoint as StableHLO programs (jax.export) that serve on CPU, GPU and TPU without this package.

    python -m tools.export_stablehlo --workdir=runs/flickr8k --out=served

`served/README.md` has the lines that run them; bridge_jax/interop/stablehlo.py describes the files of the folder.
Exit code 2: it cannot be done, with one line that says why, and nothing was written.
"""

from absl import flags

from bridge_jax.interop import stablehlo, torch_export
from bridge_jax.run import command_line, terminal
from bridge_jax.workdir.checkpoint import Checkpoints

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder that bridge_jax.main trained in.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "A step, `best` or `latest`.")
_OUT = flags.DEFINE_string("out", None, "Folder to write; it must not exist.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder of the prepared data; without it, that of training.")
_VOCABULARY = flags.DEFINE_string("vocabulary", "", "The text tower's vocabulary file; without it, that of training.")


def main(argv: list[str]) -> None:
    """Export the checkpoint and print the folder written."""
    del argv
    workdir, out = command_line.required(_WORKDIR), command_line.required(_OUT)
    torch_export.check_new(out)  # fail before minutes of reading
    saves = Checkpoints(workdir, read_only=True)
    step = saves.choose(_CHECKPOINT.value)
    data = {"data_dir": _DATA_DIR.value, "vocabulary": _VOCABULARY.value}
    count = stablehlo.export(saves, step, out, **{name: value for name, value in data.items() if value})
    terminal.say(f"{out}: step {step} of {workdir}, {count:,} parameters, for {', '.join(stablehlo.PLATFORMS)}")


if __name__ == "__main__":
    command_line.run(main)
