"""Convert config records to JSON, and list the differences of two configs."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from bridge_jax.config.convert import SECTION
from bridge_jax.config.keys import Config


def as_dict(cfg: Any) -> Any:
    """Return a config record as plain dicts and lists that JSON can hold; `Checkpoints.config` is the inverse."""
    if dataclasses.is_dataclass(cfg):
        names = [field.name for field in dataclasses.fields(cfg) if field.metadata != SECTION]
        values = {name: getattr(cfg, name) for name in names}
        return {name: as_dict(value) for name, value in values.items() if value is not None}
    if isinstance(cfg, Mapping):
        return {key: as_dict(value) for key, value in cfg.items()}
    return [as_dict(value) for value in cfg] if isinstance(cfg, tuple) else cfg


def loads(text: str | bytes, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Return a JSON document that may be anybody's. Raises ValueError where it is none or is nested too deep."""
    try:
        return json.loads(text, object_hook=object_hook)  # noqa: TID251
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def differences(saved: Mapping[str, Any], now: Config | Mapping[str, Any]) -> list[str]:
    """Return a line `a.b.c: saved -> now` for every config key in which a stored config and another differ."""
    now = loads(json.dumps(as_dict(now)))

    def walk(a: Any, b: Any, key: str) -> list[str]:
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            parts = (walk(a.get(n), b.get(n), f"{key}.{n}" if key else n) for n in sorted(a.keys() | b.keys()))
            return [line for part in parts for line in part]
        return [] if a == b else [f"{key}: {a!r} -> {b!r}"]

    return walk(saved, now, "")
