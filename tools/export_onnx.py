"""Write the two embedding functions of an exported PyTorch folder as ONNX.

    pip install 'bridge_jax[onnx]'
    python -m tools.export_pytorch --workdir=runs/flickr8k --out=exported
    python -m tools.export_onnx exported --out=onnx

`onnx/README.md` has the lines that run them in onnxruntime. Exit code 2: it cannot be done, with one line that says
why, and nothing was written.
"""

from absl import flags

from bridge_jax.config import ConfigError
from bridge_jax.interop import torch_export
from bridge_jax.run import command_line, terminal

_OUT = flags.DEFINE_string("out", None, "Folder to write; it must not exist.")


def main(argv: list[str]) -> None:
    """Export the embeddings and print the folder written."""
    if len(argv) < 2:
        raise ConfigError("expected one argument, got none: give a folder that tools.export_pytorch wrote")
    out = command_line.required(_OUT)
    torch_export.check_new(out)
    try:
        import onnxscript  # noqa: F401  torch.onnx builds its graphs with it

        from bridge_jax.interop import torch_onnx
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is missing: pip install 'bridge_jax[onnx]'") from error
    torch_onnx.export(argv[1], out)
    terminal.say(f"{out}: the embeddings of {argv[1]} as ONNX")


if __name__ == "__main__":
    command_line.run(main, positional=1)
