"""Turn an exported folder back into a checkpoint that training can start from.

Parameters return bit for bit, also after `save_pretrained` in PyTorch, so a model may be tuned there and imported.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from bridge_jax import paths
from bridge_jax.config import Config, ConfigError
from bridge_jax.config.as_json import as_dict
from bridge_jax.interop import hf_config, hf_import, names, torch_export
from bridge_jax.step.params import param_shapes
from bridge_jax.types import Params
from bridge_jax.workdir.checkpoint import Checkpoints
from bridge_jax.workdir.meta import Meta, read_config, read_meta

# Keys of config.json that do not describe the model, or that transformers writes.
_FREE = {"architectures", "auto_map", "sentence_transformers", "dtype", "bridge_jax"}


def read(source: str | Path) -> tuple[Meta, Config, Params]:
    """Return the Meta of an exported folder's checkpoint, its config, and its float32 parameters.

    The config's only file is the vocabulary, tokenizer.json beside the weights: the export dropped the other folders,
    which were those of the machine that trained.

    Raises ConfigError if the folder cannot be read, was changed so that PyTorch and this code would build different
    models, or does not hold exactly the tensors of its config.
    """
    config, tensors = hf_import.load(source)
    file = f"{source}/config.json"
    if "bridge_jax" not in config:
        raise ConfigError(f"{file}: key 'bridge_jax' is missing: expected a folder that tools.export_pytorch wrote")
    record = dict(config["bridge_jax"])
    loss_weights = record.pop("loss_weights", {})
    meta = read_meta(record, file)
    cfg = read_config(meta, file)
    shapes = {path: leaf.shape for path, leaf in paths.flatten(param_shapes(cfg)).items()}
    params: paths.Flat = {f"loss_weights/{name}": np.float32(value) for name, value in loss_weights.items()}
    unfilled = [path for path in shapes if path.startswith("loss_weights/") and path not in params]
    for entry in names.whole(cfg.vision, cfg.text, shapes):
        if entry.name in tensors:
            params[entry.path] = hf_import.to_ours(entry, entry.name, tensors.pop(entry.name), source)
        else:
            unfilled.append(entry.path)
    hf_import.all_used(source, sorted(tensors), unfilled)
    nested = paths.unflatten(params)
    _compare(config, torch_export.config_json(cfg, nested, meta), file)
    return meta, cfg, nested


def to_checkpoint(source: str | Path, workdir: str | Path) -> Meta:
    """Make the new folder `workdir`, whole or not at all, with one checkpoint that config.init_from can name.

    Its config.data.vocabulary is the tokenizer.json of `source`. It has no optimizer state: a run that starts from it
    begins with its first stage. Raises ConfigError as `read` does, and if `workdir` exists.
    """
    torch_export.check_new(workdir)
    meta, cfg, params = read(source)
    vocabulary = (hf_import.fetch(source) / torch_export.VOCABULARY).absolute()
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, vocabulary=str(vocabulary)))
    with torch_export.new_folder(workdir) as folder:
        saves = Checkpoints(folder)
        about = {"fused_trained": meta.fused_trained, "answers": meta.answers}
        saves.save(meta.step, meta.stage, params, None, cfg, **about)
        saves.close()
    return meta


def _compare(config: dict[str, Any], expected: dict[str, Any], file: str) -> None:
    for key in sorted(expected.keys() - _FREE):
        got = hf_config.key_of(config, key, file)
        if got != as_dict(expected[key]):
            raise ConfigError(
                f"{file}: key {key!r} is {got!r}, but the config under 'bridge_jax' makes it {expected[key]!r}: "
                "change both or neither"
            )
