"""Convert plain values to config records. A value must have the type in its dataclass, or an error names its key."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

SECTION = {"section": True}  # metadata of a record's field that holds the name of its section and is no key


class ConfigError(ValueError):
    """The user's input cannot work. The text names the key, the expected value, the actual value and the remedy."""


def build(cls: type, values: Any, key: str) -> Any:
    """Return the record `cls` with a section's values; a key whose type allows None may be left out.

    Raises ConfigError naming the key that is unknown, missing or of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{key}: expected a section with keys, got {values!r}")
    hints = keys(cls)
    for name in values:
        if name not in hints:
            raise ConfigError(f"{key}.{name} is not a config key; {nearest(name, hints)}")
    values = {name: None for name, hint in hints.items() if type(None) in typing.get_args(hint)} | dict(values)
    missing = [name for name in hints if name not in values]
    if missing:
        raise ConfigError(f"{key}.{missing[0]} is missing; add it to the config file (see configs/common.py)")
    section = {field.name: key.rpartition(".")[2] for field in dataclasses.fields(cls) if field.metadata == SECTION}
    return cls(**section, **{name: _convert(hint, values[name], f"{key}.{name}") for name, hint in hints.items()})


def keys(cls: type) -> dict[str, Any]:
    """Return the keys of a section and their types."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.metadata != SECTION}


def _convert(hint: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, key)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:  # a section that may be left out
        return None if value is None else _convert(arguments[0], value, key)
    if origin is Literal:
        require_one_of(key, value, arguments)
        return value
    if origin in (dict, Mapping) or (origin is not None and isinstance(origin, type) and issubclass(origin, Mapping)):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key}: expected a section with keys, got {value!r}")
        if arguments[1] is Any:
            return types.MappingProxyType(dict(value))
        return types.MappingProxyType({k: _convert(arguments[1], v, f"{key}.{k}") for k, v in value.items()})
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise ConfigError(f"{key}: expected a tuple, got {value!r}")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(arguments[0], v, f"{key}[{i}]") for i, v in enumerate(value))
        if len(value) != len(arguments):
            raise ConfigError(f"{key}: expected {len(arguments)} values, got {value!r}")
        return tuple(_convert(a, v, f"{key}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True)))
    if hint is Any:  # a rule's value; JSON has no tuples
        return tuple(value) if isinstance(value, list) else value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{key}: expected {hint.__name__}, got {value!r}")
    return value


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with `message` unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def require_one_of(key: str, value: str, known: typing.Iterable[str]) -> None:
    """Raise ConfigError, naming the nearest known word, unless `value` is one of `known`."""
    known = tuple(known)
    require(value in known, f"{key}: {value!r} is unknown; {nearest(value, known)}")


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """Return "nearest: x" for an error text, or "known: ..." with all known words if none is near."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"nearest: {close[0]!r}" if close else f"known: {', '.join(known)}"
