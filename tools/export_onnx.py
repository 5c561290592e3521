"""Write an exported PyTorch folder as ONNX graphs: the embeddings, and the match and the decoder where it has them.

    pip install 'bridge_jax[onnx]'
    python -m tools.export_pytorch --workdir=runs/flickr8k --out=exported
    python -m tools.export_onnx exported --out=onnx

`onnx/README.md` has the lines that run them, in Python and in a browser. Exit code 2: it cannot be done, with one line
that says why, and nothing was written.
"""

from absl import flags

from bridge_jax.config import ConfigError
from bridge_jax.interop import torch_export
from bridge_jax.run import command_line, terminal

_OUT = flags.DEFINE_string("out", None, "Folder to write; it must not exist.")
_PARTS = flags.DEFINE_list(
    "parts", None, "Any of match, decoder: written beside the embeddings. By default all that the model has."
)
_INT8 = flags.DEFINE_bool("int8", False, "Keep weights in 8 bits: a quarter of the size, and a little less exact.")


def main(argv: list[str]) -> None:
    """Export the graphs and print the size of each."""
    if len(argv) < 2:
        raise ConfigError("expected one argument, got none: give a folder that tools.export_pytorch wrote")
    out = command_line.required(_OUT)
    torch_export.check_new(out)
    try:
        import onnxscript  # noqa: F401  torch.onnx builds its graphs with it

        from bridge_jax.interop import torch_onnx
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is missing: pip install 'bridge_jax[onnx]'") from error
    sizes = torch_onnx.export(argv[1], out, _PARTS.value, _INT8.value)
    terminal.say(f"{out}: {argv[1]} as ONNX, weights in {'8 bits' if _INT8.value else 'float32'}")
    for name, size in sizes.items():
        terminal.say(f"  {name}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    command_line.run(main, positional=1)
