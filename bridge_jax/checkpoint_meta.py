"""What a checkpoint says of itself, as JSON beside its arrays; it travels on in exported folders."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import ml_collections

from bridge_jax.config import Config, ConfigError, parse

SCHEMA = 2


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a checkpoint says of itself. `step` counts the steps done; `stage` is the one that did the last of them."""

    schema: int
    step: int
    stage: str
    config: Mapping[str, Any]
    fused_trained: bool = False  # whether the fused heads were ever trained, here or in what the run started from
    frozen: str = ""  # hash of the manifest of `frozen`; empty: every parameter is in the checkpoint itself


def read_meta(raw: Mapping[str, Any], where: str) -> Meta:
    """Return a record that was stored as JSON. Raises ConfigError, naming `where`, for another schema."""
    if raw.get("schema") != SCHEMA:
        raise ConfigError(f"{where}: checkpoint schema {raw.get('schema')}, this code reads {SCHEMA}")
    try:
        return Meta(**raw)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}; it was made by another version of the code") from error


def read_config(meta: Meta, where: str) -> Config:
    """Return the config of a record. Raises ConfigError, naming `where`, where this code cannot read it."""
    try:
        return parse(ml_collections.ConfigDict(dict(meta.config)))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}; it was made by another version of the code") from error
