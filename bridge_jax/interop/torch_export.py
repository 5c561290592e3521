"""Write a trained model as a folder that Hugging Face transformers loads. Writing it does not need PyTorch.

    config.json, *.py            the model: AutoModel.from_pretrained(FOLDER, trust_remote_code=True)
    model.safetensors            float32, under the names of `names.whole`
    preprocessor_config.json, tokenizer.json and the two beside it: AutoProcessor
    modules.json and two more    SentenceTransformer(FOLDER, trust_remote_code=True), and CrossEncoder likewise
    README.md                    the model card

The Python files are unchanged copies of those in `torch_model`. Nothing in the folder depends on the time or the place
of the export, so exporting twice gives identical bytes.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from bridge_jax import paths
from bridge_jax.config import Config, ConfigError, Mesh, objectives
from bridge_jax.config.as_json import as_dict
from bridge_jax.data import text
from bridge_jax.data.text import Tokenizer
from bridge_jax.interop import hf_config, model_card, names
from bridge_jax.losses import mim
from bridge_jax.models.placement import meeting_blocks
from bridge_jax.step import sharding
from bridge_jax.step.params import abstract_params
from bridge_jax.types import Params
from bridge_jax.workdir.checkpoint import Checkpoints
from bridge_jax.workdir.meta import Meta

WEIGHTS, VOCABULARY = "model.safetensors", "tokenizer.json"
MODEL_TYPE = "bridge"
# Losses whose heads are written by name in torch_model; all others are generic classifiers.
HEADS = ("itm", "mlm", "mim", "vqa", "nlvr2", "sigmoid", "token_itc")
CODE = Path(__file__).parent / "torch_model"
# The files that sentence-transformers (5.4 or newer) reads: an embedding is what the model's own methods return.
SENTENCE_TRANSFORMERS = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    ],
    "sentence_bert_config.json": {
        "transformer_task": "feature-extraction",
        "modality_config": {
            "text": {"method": "get_text_features", "method_output_name": None},
            "image": {"method": "get_image_features", "method_output_name": None},
        },
        "module_output_name": "sentence_embedding",
        "processing_kwargs": {"text": {"padding": "max_length", "truncation": True}},
    },
    "config_sentence_transformers.json": {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"},
}


def export(saves: Checkpoints, step: int, out: str | Path, **data: str) -> int:
    """Export one checkpoint to the new folder `out` and return its parameter count.

    `data` replaces keys of config.data. Raises ConfigError if the checkpoint or its vocabulary cannot be read, and as
    `write` does.
    """
    meta, cfg = saves.meta(step), saves.config(step)
    tokenizer = text.load(dataclasses.replace(cfg.data, **data), cfg.text)
    params = restore(saves, step)
    write(out, cfg, params, meta, tokenizer, model_card.card(cfg, saves, step))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def restore(saves: Checkpoints, step: int) -> Params:
    """Return the parameters of a checkpoint on this machine's devices, whatever machine trained it."""
    cfg, mesh = saves.config(step), sharding.make_mesh(Mesh(data=-1, fsdp=1, tensor=1))
    return saves.restore_params(step, abstract_params(cfg, mesh))


def write(out: str | Path, cfg: Config, params: Params, meta: Meta, tokenizer: Tokenizer, card: str) -> None:
    """Write the folder `out`, whole or not at all. Raises ConfigError if it exists or cannot be written.

    `params`: the model's parameters (nested, any float type; stored as float32). `meta`: the description of their
    checkpoint. `card`: the text of the model card.
    """
    with new_folder(out) as folder:
        flat = paths.flatten(params)
        shapes = {path: tuple(leaf.shape) for path, leaf in flat.items()}
        entries = names.whole(cfg.vision, cfg.text, shapes)
        tensors = {e.name: e.to_stored(np.asarray(flat[e.path], np.float32)) for e in entries}
        save_tensors(tensors, folder / WEIGHTS)
        _write_json(folder / "config.json", config_json(cfg, params, meta))
        _write_json(folder / "preprocessor_config.json", _preprocessor_config(cfg))
        _write_json(folder / "special_tokens_map.json", tokenizer.special)
        _write_json(folder / "tokenizer_config.json", _tokenizer_config(cfg) | tokenizer.special)
        for name, values in SENTENCE_TRANSFORMERS.items():
            _write_json(folder / name, values)
        (folder / VOCABULARY).write_text(tokenizer.to_json(), encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")
        for file in sorted(CODE.glob("*_bridge*.py")):
            shutil.copyfile(file, folder / file.name)


def check_new(out: str | Path) -> Path:
    """Return `out` as an absolute path. Raises ConfigError if it exists."""
    out = Path(out).expanduser().absolute()
    if out.exists():
        raise ConfigError(f"{out} exists: expected a new folder, nothing is overwritten; move it or name another")
    return out


@contextlib.contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """Yield a temporary folder to fill: it becomes `out` in one step at the end, or is removed after an error.

    Raises ConfigError if `out` exists or the disk refuses.
    """
    out = check_new(out)
    aside = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        aside.mkdir(parents=True)
        yield aside
        aside.rename(out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def save_tensors(tensors: Mapping[str, np.ndarray], file: Path) -> None:
    """Write a safetensors file for PyTorch, with the permissions of the folder's other files."""
    file.touch()
    mode = file.stat().st_mode
    try:
        save_file(dict(tensors), file, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk raises this
        raise OSError(str(error)) from error
    file.chmod(mode)  # safetensors lets only the owner read it


def config_json(cfg: Config, params: Params, meta: Meta) -> dict[str, Any]:
    """Return the exported config.json: the model that PyTorch builds, and under `bridge_jax` the data to resume from.

    Raises ConfigError for a head that PyTorch cannot build.
    """
    image_after, text_after = meeting_blocks(cfg)
    bridge = cfg.bridge
    return {
        "architectures": ["BridgeModel"],
        "auto_map": {
            "AutoConfig": "configuration_bridge.BridgeConfig",
            "AutoModel": "modeling_bridge.BridgeModel",
            "AutoModelForSequenceClassification": "modeling_bridge.BridgeForSequenceClassification",
            "AutoModelForZeroShotImageClassification": "modeling_bridge.BridgeForZeroShotImageClassification",
            "AutoProcessor": "processing_bridge.BridgeProcessor",
        },
        "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},  # of a CrossEncoder's scores
        "model_type": MODEL_TYPE,
        "dtype": "float32",
        "vision_config": hf_config.vision_config(cfg),
        "text_config": hf_config.text_config(cfg),
        "image_size": cfg.vision.image_px,
        "text_length": cfg.text.length,
        "design": bridge.design,
        "image_after": list(image_after),
        "text_after": list(text_after),
        "finish_before": bridge.placement == "after" or not image_after,
        "shared_width": bridge.shared_width,
        "bridge_heads": bridge.heads,
        "embed_width": bridge.embed_width,
        "interaction_attention_dropout": bridge.attention_dropout,
        "interaction_output_dropout": bridge.output_dropout,
        "logit_scale_max": bridge.logit_scale_max,
        "rerank_weight": cfg.evals["retrieval"].rerank_weight
        if "retrieval" in cfg.evals
        else 1.0,  # the value in configs/common.py
        "mlm_head": "mlm" in params["heads"],
        "mim_width": mim.width(cfg) if "mim" in params["heads"] else 0,
        "vqa_head": "vqa" in params["heads"],
        "pictures": cfg.losses["nlvr2"]["pictures"] if "nlvr2" in params["heads"] else 0,
        **({"classifiers": classifiers} if (classifiers := _classifiers(cfg, params)) else {}),
        "sigmoid_head": "sigmoid" in params["heads"],
        "token_itc_head": "token_itc" in params["heads"],
        "caption_decoder": _decoder(cfg),  # transformers would take `decoder` for a text tower
        "answering_decoder": "vqa_generative" in cfg.losses,
        **({"id2label": {str(i): answer for i, answer in enumerate(meta.answers)}} if meta.answers else {}),
        "bridge_jax": dataclasses.asdict(meta)
        | {"config": as_dict(without_places(cfg)), "frozen": "", "loss_weights": _loss_weights(params)},
    }


def _classifiers(cfg: Config, params: Params) -> dict[str, list[int]]:
    """Return loss -> [features, classes] of every head that PyTorch builds as a generic classifier of pairs.

    Raises ConfigError for a head that is no such classifier.
    """
    classifiers, pooled = {}, cfg.vision.width + cfg.text.width
    for name in sorted(params["heads"].keys() & set(objectives.known()) - set(HEADS)):
        head = params["heads"][name]
        reads = head["hidden_0"]["kernel"].shape[0] if "hidden_1" in head else 0
        if reads not in (pooled, pooled + cfg.bridge.embed_width) or objectives.needs(name).pictures:
            raise ConfigError(
                f"heads/{name} is no classifier of models.heads.pooled or features of a pair, and the exported model "
                f"has only these other heads: {', '.join(HEADS)}; add it to bridge_jax/interop/torch_model"
            )
        classifiers[name] = [reads, head["out"]["kernel"].shape[1]]
    return classifiers


def _decoder(cfg: Config) -> dict[str, Any] | None:
    """Return the decoder's sizes and search: the search of its evaluation, or that of configs/common.py."""
    if cfg.decoder is None:
        return None
    search = {"beams": 5, "length_penalty": 0.7}
    if "caption" in cfg.evals:
        scored = cfg.evals["caption"]
        search = {"beams": scored.beams if scored.search == "beam" else 1, "length_penalty": scored.length_penalty}
    return dataclasses.asdict(cfg.decoder) | search


def without_places(cfg: Config) -> Config:
    """Return the config without the folders of the machine it ran on: they are private, and useless elsewhere.

    A tower keeps its hub id, or the last part of its folder's path; the vocabulary is the one in the export.
    """

    def tower(source: str) -> str:
        path = Path(source)
        is_place = path.expanduser().is_absolute() or source.startswith(".") or len(path.parts) > 2 or path.is_dir()
        return path.name if source and is_place else source

    return dataclasses.replace(
        cfg,
        vision=dataclasses.replace(cfg.vision, pretrained=tower(cfg.vision.pretrained)),
        text=dataclasses.replace(cfg.text, pretrained=tower(cfg.text.pretrained)),
        data=dataclasses.replace(cfg.data, data_dir="", vocabulary=VOCABULARY),
        cache_dir="",
        init_from="",
    )


def _loss_weights(params: Params) -> dict[str, float]:
    """Return the learned weights of the losses. JSON keeps a float32 exactly: Python writes every digit."""
    return {name: float(value) for name, value in params["loss_weights"].items()} if "loss_weights" in params else {}


def _preprocessor_config(cfg: Config) -> dict[str, Any]:
    return {
        "auto_map": {
            "AutoImageProcessor": "processing_bridge.BridgeImageProcessor",
            "AutoProcessor": "processing_bridge.BridgeProcessor",
        },
        "image_processor_type": "BridgeImageProcessor",
        "processor_class": "BridgeProcessor",
        "image_size": cfg.vision.image_px,
        "image_mean": list(cfg.vision.mean),
        "image_std": list(cfg.vision.std),
        "squash": cfg.data.squash,
    }


def _tokenizer_config(cfg: Config) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",  # reads tokenizer.json unchanged; BertTokenizer builds its own
        "model_max_length": cfg.text.length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }


def _write_json(file: Path, values: Mapping[str, Any] | list[dict[str, Any]]) -> None:
    file.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
