"""Write a checkpoint as a folder that Hugging Face transformers loads, with no trace of JAX in it.

    python -m tools.export_pytorch --workdir=runs/flickr8k --out=exported
    python -m tools.export_pytorch --workdir=runs/flickr8k --checkpoint=latest --out=exported
    python -m tools.export_pytorch --workdir=runs/after --layout=authors --out=theirs

    model = transformers.AutoModel.from_pretrained("exported", trust_remote_code=True)
    processor = transformers.AutoProcessor.from_pretrained("exported", trust_remote_code=True)
    encoder = sentence_transformers.SentenceTransformer("exported", trust_remote_code=True)
    reranker = sentence_transformers.CrossEncoder("exported", trust_remote_code=True)

`python -m tools.import_hf exported --workdir=runs/back` is the way back. `--layout=authors` writes the state dict of
the BRIDGE authors' code instead, for a run with placement `after` and design `cross`; tools.import_authors reads it.
Exit code 2: it cannot be done, with one line that says why, and nothing was written.
"""

from absl import flags

from bridge_jax.interop import authors, torch_export
from bridge_jax.run import command_line, terminal
from bridge_jax.workdir.checkpoint import Checkpoints

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder that bridge_jax.main trained in.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "A step, `best` or `latest`.")
_LAYOUT = flags.DEFINE_enum("layout", "transformers", ["transformers", "authors"], "Code whose model loads the folder.")
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
    if _LAYOUT.value == "authors":
        fresh = authors.export(saves, step, out)
        terminal.say(
            f"{out}: step {step} of {workdir}; drawn anew, since the authors' model reads other states there: "
            f"{', '.join(fresh)}"
        )
        return
    data = {"data_dir": _DATA_DIR.value, "vocabulary": _VOCABULARY.value}
    count = torch_export.export(saves, step, out, **{name: value for name, value in data.items() if value})
    terminal.say(f"{out}: step {step} of {workdir}, {count:,} parameters")


if __name__ == "__main__":
    command_line.run(main)
