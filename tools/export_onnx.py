"""Write the two embedding functions of an exported PyTorch folder as ONNX.

    pip install 'bridge_jax[onnx]'
    python -m tools.export_pytorch --workdir=runs/flickr8k --out=exported
    python -m tools.export_onnx exported --out=onnx

`onnx/README.md` has the lines that run them in onnxruntime. Exit code 2: it cannot be done, with one line that says
why; then nothing was written.
"""

from absl import flags

from bridge_jax.config import ConfigError
from bridge_jax.interop import torch_export
from bridge_jax.run import command_line, terminal

_OUT = flags.DEFINE_string("out", None, "The folder to write; it must not exist.")


def main(argv: list[str]) -> None:
    """Export, and say what was written."""
    if len(argv) < 2:
        raise ConfigError("expected one argument: a folder of tools.export_pytorch")
    out = command_line.required(_OUT)
    torch_export.check_new(out)
    try:
        import onnxscript  # noqa: F401  what torch.onnx builds its graphs with

        from bridge_jax.interop import torch_onnx
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is missing: pip install 'bridge_jax[onnx]'") from error
    torch_onnx.export(argv[1], out)
    terminal.say(f"{out}: the embeddings of {argv[1]} as ONNX")


if __name__ == "__main__":
    command_line.run(main, positional=1)
