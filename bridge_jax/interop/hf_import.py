"""Read pretrained towers from Hugging Face files: safetensors and JSON, without torch and without pickle.

The file's own `config.json` must agree with our config key by key, every tensor must be used or excused by name
(poolers, task heads, buffers), and every parameter must be filled; otherwise a ConfigError names the difference.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import ml_dtypes  # noqa: F401  importing it teaches numpy the bfloat16 that safetensors may hold
import numpy as np
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from bridge_jax import paths
from bridge_jax.config import ConfigError, Text, Vision, as_json
from bridge_jax.interop import hf_config, names
from bridge_jax.interop.hf_config import key_of

_WEIGHTS, _INDEX, _PREPROCESSOR = "model.safetensors", "model.safetensors.index.json", "preprocessor_config.json"
_FLOATS = ("F64", "F32", "F16", "BF16")
_OTHERS = ("BOOL", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64")


@dataclasses.dataclass(frozen=True)
class Imported:
    """A tower's parameters, and how each tensor of the file was treated."""

    params: dict[str, Any]  # float32 numpy, nested as the tower's own tree: the subtree `vision` or `text` of the model
    used: tuple[str, ...]  # names of the tensors read, as stored
    excused: tuple[str, ...]  # names of the tensors that no tower has, as stored
    fresh: tuple[str, ...]  # parameters that the file may lack and that start fresh: only a mask token, at zero


def load(source: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return (config.json, tensors by stored name) of a local folder or a hub id such as "google/vit-base-patch16-224".

    Reads `model.safetensors` or the shards of `model.safetensors.index.json`. Floating point becomes float32, integers
    stay. Raises ConfigError if the folder or hub id cannot be read, holds only pickled weights, or is torn.
    """
    folder = fetch(source)
    config = _json(folder / "config.json", source)
    index = folder / _INDEX
    if (folder / _WEIGHTS).is_file():
        return config, read_tensors(folder / _WEIGHTS, source)
    if index.is_file():
        return config, _read_shards(folder, _json(index, source), source)
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".h5", ".msgpack"))
    present = f"found only {', '.join(pickled)}" if pickled else "found no weights"
    raise ConfigError(
        f"{source}: expected {_WEIGHTS} or {_INDEX}, {present}. Pickled weights can run code when they are opened, so "
        "they are never read: save the model again with save_pretrained(folder, safe_serialization=True)"
    )


def fetch(source: str | Path) -> Path:
    """Return the local folder of `source`. For a hub id, download JSON, safetensors, vocabulary and card.

    Raises ConfigError if `source` is neither a folder nor a hub id, or the download fails.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)) or str(source).startswith("."):
        raise ConfigError(f"{source}: no such folder, and not a hub id (expected a folder or owner/name)")
    try:
        patterns = ["*.json", "*.safetensors", "vocab.txt", "README.md"]
        return Path(huggingface_hub.snapshot_download(str(source), allow_patterns=patterns, ignore_patterns=["*/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"{source}: no such folder, and the hub did not deliver it: {reason}") from error


def model_type(source: str | Path) -> str:
    """Return the `model_type` in the config.json of a folder or hub id. Raises ConfigError if it is missing."""
    return key_of(_json(fetch(source) / "config.json", source), "model_type", f"{source}/config.json")


def licence(source: str) -> str:
    """Return the licence that the source's model card states, such as "apache-2.0"; empty if it states none.

    Reads the folder, or the hub's local cache that `fetch` filled. Never uses the network, so the result is repeatable.
    """
    folder = Path(source).expanduser()
    try:
        card = folder / "README.md" if folder.is_dir() else huggingface_hub.try_to_load_from_cache(source, "README.md")
        front = Path(card).read_text(encoding="utf-8").split("---")[1] if isinstance(card, (str, Path)) else ""
    except (HFValidationError, OSError, IndexError):
        return ""
    line = re.search(r"^license:\s*(\S+)", front, re.MULTILINE)
    return line[1] if line else ""


def vision_params(source: str | Path, cfg: Vision) -> dict[str, Any]:
    """Return the image tower's parameters, float32 numpy, nested as its module has them (see `import_vision`)."""
    return import_vision(source, cfg).params


def text_params(source: str | Path, cfg: Text) -> dict[str, Any]:
    """Return the text tower's parameters, float32 numpy, nested as its module has them (see `import_text`)."""
    return import_text(source, cfg).params


def import_vision(source: str | Path, cfg: Vision) -> Imported:
    """Read the parameters of the image tower that `cfg` describes.

    The position grid keeps its stored resolution (`cfg.position_grid`); the tower resizes it to `cfg.image_px`. A plain
    ViT file has no mask token: with `cfg.mask_token` it starts at zero, as in Hugging Face's code.

    Raises ConfigError naming the config key, or the tensors that do not fit.
    """
    config, tensors = load(source)
    config = hf_config.tower_config(config, "vision", source)
    _compare("config.vision", cfg, hf_config.vision_values(config, source), f"{source}/config.json")
    _compare("config.vision", cfg, preprocessing(source), f"{source}/{_PREPROCESSOR}")
    model_type = config["model_type"]
    return _fill(names.vision(cfg, model_type), tensors, model_type, cfg.mask_token, source)


def import_text(source: str | Path, cfg: Text) -> Imported:
    """Read the parameters of the text tower that `cfg` describes.

    Raises ConfigError naming the config key, or the tensors that do not fit.
    """
    config, tensors = load(source)
    config = hf_config.tower_config(config, "text", source)
    _compare("config.text", cfg, hf_config.text_values(config, source), f"{source}/config.json")
    return _fill(names.text(cfg, config["model_type"]), tensors, config["model_type"], False, source)


def preprocessing(source: str | Path) -> dict[str, tuple[float, ...]]:
    """Return the tower's own pixel `mean` and `std` (per RGB channel in 0..1); empty if the source has none."""
    file = fetch(source) / _PREPROCESSOR
    if not file.is_file():
        return {}
    values = _json(file, source)
    if "do_normalize" in values and not values["do_normalize"]:
        return {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    return {ours: tuple(values[key]) for ours, key in (("mean", "image_mean"), ("std", "image_std")) if key in values}


def _compare(section: str, cfg: Vision | Text, expected: Mapping[str, Any], file: str) -> None:
    for key, value in expected.items():
        got = getattr(cfg, key)
        same = key == "tower" and value in hf_config.SAME_FILES and got == hf_config.SAME_FILES[value]
        if got != value and not same:
            raise ConfigError(f"{section}.{key}: expected {value!r} as in {file}, got {got!r}")


def _fill(
    entries: Iterable[names.Entry], tensors: Mapping[str, np.ndarray], model_type: str, mask_token: bool, source: Any
) -> Imported:
    stored: dict[str, str] = {}
    for name in tensors:
        bare = names.bare_name(name, model_type)
        if bare in stored:
            raise ConfigError(f"{source}: tensors {stored[bare]!r} and {name!r} both mean {bare!r}; keep one")
        stored[bare] = name
    params: dict[str, np.ndarray] = {}
    used, fresh, unfilled = [], [], []
    for entry in entries:
        path = entry.path.split("/", 1)[1]
        if entry.name in stored:
            name = stored.pop(entry.name)
            params[path] = to_ours(entry, name, tensors[name], source)
            used.append(name)
        elif entry.path == "vision/mask_token":
            params[path] = np.zeros(entry.shape, np.float32)
            fresh.append(entry.path)
        else:
            unfilled.append(entry.path)
    excused = [name for bare, name in stored.items() if names.excused(bare, model_type, mask_token)]
    all_used(source, [name for name in stored.values() if name not in excused], unfilled)
    return Imported(paths.unflatten(params), tuple(used), tuple(excused), tuple(fresh))


def to_ours(entry: names.Entry, name: str, array: np.ndarray, source: Any) -> np.ndarray:
    """Return the tensor `name` in the layout of our parameter. Raises ConfigError if its shape or type is wrong."""
    if array.dtype != np.float32:
        raise ConfigError(
            f"{source}: tensor {name} holds {array.dtype}, expected floating point; save the model without quantisation"
        )
    if array.shape != entry.stored:
        raise ConfigError(
            f"{source}: tensor {name!r} has shape {array.shape}; expected {entry.stored} to fill {entry.path!r}"
        )
    return entry.to_ours(array)


def all_used(source: Any, unused: list[str], unfilled: list[str]) -> None:
    """Raise ConfigError if tensors or parameters are left over."""
    if unused or unfilled:
        raise ConfigError(
            f"{source}: tensors that fill no parameter: {_list(unused)}; parameters without a tensor: {_list(unfilled)}"
        )


def read_tensors(file: Path, source: Any) -> dict[str, np.ndarray]:
    """Return the tensors of a safetensors file, floating point as float32.

    Of tied tensors the file stores one; its metadata names the others, as `safetensors.torch.save_model` writes it.

    Raises ConfigError if it is torn or holds a type that is not read.
    """
    try:
        with safe_open(file, framework="np") as handle:
            stored = list(handle.keys())
            for name in stored:
                if (kind := handle.get_slice(name).get_dtype()) not in (*_FLOATS, *_OTHERS):
                    read = f"{', '.join(_FLOATS)}, BOOL and integers of 8 to 64 bits"
                    raise ConfigError(
                        f"{source}: {file.name}: tensor {name} has the type {kind}; read are {read}: save it as one"
                    )
            tensors = {name: handle.get_tensor(name) for name in stored}
            tied = {name: kept for name, kept in (handle.metadata() or {}).items() if kept in tensors}
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{source}: {file.name} is not a whole safetensors file ({error}); fetch it again") from error
    for name, array in tensors.items():
        tensors[name] = array if array.dtype.kind in "biu" else array.astype(np.float32)
    return {name: tensors[kept] for name, kept in tied.items()} | tensors


def _read_shards(folder: Path, index: Mapping[str, Any], source: Any) -> dict[str, np.ndarray]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise ConfigError(f"{source}: {_INDEX}: expected `weight_map` from tensors to files; fetch it again")
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise ConfigError(f"{source}: {_INDEX} names shards that are not there: {_list(missing)}; fetch them")
    tensors = {name: array for shard in shards for name, array in read_tensors(folder / shard, source).items()}
    absent = sorted(set(weight_map) - set(tensors))
    if absent:
        raise ConfigError(f"{source}: {_INDEX} names tensors that no shard holds: {_list(absent)}; fetch it again")
    return tensors


def _json(file: Path, source: Any) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"{source}: {file.name} is missing; expected a folder in Hugging Face's layout")
    try:
        found = as_json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{source}: {file.name} is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{source}: {file.name}: expected a JSON object, got {found!r:.60}")
    return found


def _list(items: list[str], most: int = 8) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more if items else "none"
