"""Read a Hugging Face tower and print the config section that fits it, or make a checkpoint of an exported model.

    python -m tools.import_hf SOURCE        a folder, or a hub id such as google/vit-base-patch16-224
    python -m tools.import_hf FOLDER --workdir=runs/back        FOLDER was written by tools.export_pytorch

A run starts from such a checkpoint with --config.init_from=runs/back. Exit code 0: the source imports as printed; 2: it
cannot be imported, with one line that says why.
"""

import dataclasses
import math
from typing import Any

import jax
from absl import flags
from rich.console import Console
from rich.table import Table

from bridge_jax.config import ConfigError, Text, Vision
from bridge_jax.interop import hf_config, hf_import, torch_export, torch_import
from bridge_jax.run import command_line
from configs.common import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD

_WORKDIR = flags.DEFINE_string("workdir", "", "Workdir to write; only for a folder of tools.export_pytorch.")

KNOWN = (*hf_config.VISION_FAMILIES, *hf_config.TEXT_FAMILIES, *hf_config.PAIRS)
HALF = (0.5, 0.5, 0.5)  # pixels to -1..1, for the ViT and SigLIP
STATISTICS = {
    "dinov2": (IMAGENET_MEAN, IMAGENET_STD),
    "dinov2_with_registers": (IMAGENET_MEAN, IMAGENET_STD),
    "dinov3_vit": (IMAGENET_MEAN, IMAGENET_STD),
    "tipsv2_vision_model": ((0.0,) * 3, (1.0,) * 3),
    "clip_vision_model": (CLIP_MEAN, CLIP_STD),
    "metaclip_2_vision_model": (CLIP_MEAN, CLIP_STD),
}


def section(source: str, side: str) -> tuple[Vision | Text, hf_import.Imported, list[str]]:
    """Return the config record that fits `source`, the imported parameters, and notes on keys the source leaves open.

    `side` ("vision" or "text") chooses the tower in a file with two; for a file with one it does not matter.
    """
    config, _ = hf_import.load(source)
    config = hf_config.tower_config(config, side, source)
    model_type = hf_config.key_of(config, "model_type", f"{source}/config.json")
    if model_type not in KNOWN:
        raise ConfigError(
            f"{source}/config.json: model_type {model_type!r} is not supported; supported: {', '.join(KNOWN)}, and "
            f"{torch_export.MODEL_TYPE} as tools.export_pytorch writes it"
        )
    values: dict[str, Any] = {"dropout": hf_config.dropout(config, source), "pretrained": source}
    if model_type in hf_config.TEXT_FAMILIES:
        values |= hf_config.text_values(config, source)
        text = Text(**values, length=min(30, values["max_positions"]))
        notes = [f"length {text.length}: captions are cut to so many tokens; the paper uses 30"]
        return text, hf_import.import_text(source, text), notes
    values |= hf_config.vision_values(config, source)
    values["mean"], values["std"] = STATISTICS.get(model_type, (HALF, HALF))
    statistics = hf_import.preprocessing(source)
    values |= statistics
    notes = (
        []
        if statistics
        else [f"mean, std: the usual ones of {model_type}, since the source has no preprocessor_config.json"]
    )
    vision = Vision(**values, image_px=values["patch_px"] * values["position_grid"], mask_token=False)
    return vision, hf_import.import_vision(source, vision), notes


def _print(cfg: Vision | Text, imported: hf_import.Imported, notes: list[str]) -> None:
    name = "vision" if isinstance(cfg, Vision) else "text"
    print(f"{name} = dict(")
    for key, value in dataclasses.asdict(cfg).items():
        print(f"    {key}={value!r},")
    print(")")
    for note in notes:
        print(f"# {note}")
    table = Table("", "count", "names")
    leaves = jax.tree.leaves(imported.params)
    table.add_row("parameters", f"{sum(math.prod(leaf.shape) for leaf in leaves):,}", f"{len(leaves)} arrays, float32")
    table.add_row("tensors used", str(len(imported.used)), f"{imported.used[0]} ...")
    table.add_row("tensors excused", str(len(imported.excused)), ", ".join(imported.excused))
    Console().print(table)


def main(argv: list[str]) -> None:
    """Print the config section and the table of `argv[1]`, or make a checkpoint from it."""
    if len(argv) < 2:
        raise ConfigError("expected one argument, got none: give a folder or a hub id")
    source, model_type = argv[1], hf_import.model_type(argv[1])
    if model_type == torch_export.MODEL_TYPE:
        workdir = command_line.required(_WORKDIR)
        meta = torch_import.to_checkpoint(source, workdir)
        print(f"{workdir}: step {meta.step} of stage {meta.stage!r}; start from it with --config.init_from={workdir}")
    elif _WORKDIR.present and model_type in KNOWN:
        raise ConfigError(
            f"--workdir: {source} is a tower, which a run reads itself; give it to the run with "
            "--config.vision.pretrained or --config.text.pretrained"
        )
    else:
        for side in ("vision", "text") if model_type in hf_config.PAIRS else ("",):
            _print(*section(source, side))


if __name__ == "__main__":
    command_line.run(main, positional=1)
