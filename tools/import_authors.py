"""Make a checkpoint from one of the BRIDGE authors' code.

    python -m tools.import_authors SOURCE --config=configs/coco.py --config.bridge.placement=after --workdir=runs/theirs

SOURCE is a safetensors file with their state dict, or the folder that `tools.export_pytorch --layout=authors` wrote.
The config must have their sizes; the file does not say numbers of heads. A run starts from the checkpoint with
--config.init_from=runs/theirs. Exit code 2: it cannot be done, with one line that says why, and nothing was written.
"""

from absl import flags

from bridge_jax.config import ConfigError
from bridge_jax.interop import authors
from bridge_jax.run import command_line

_CONFIG = command_line.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Workdir to write; it must not exist.")


def main(argv: list[str]) -> None:
    """Import `argv[1]` and print a note on everything that it does not hold."""
    if len(argv) < 2:
        raise ConfigError(
            "expected one argument, got none: give a safetensors file, or a folder with model.safetensors"
        )
    cfg, workdir = command_line.read_config(_CONFIG), command_line.required(_WORKDIR)
    for note in authors.to_checkpoint(argv[1], cfg, workdir):
        print(note)
    print(f"{workdir}: start from it with --config.init_from={workdir}")


if __name__ == "__main__":
    command_line.run(main, positional=1)
