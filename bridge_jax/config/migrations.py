"""What checkpoints of older versions lack: one migration a schema, run in order, from the schema found to today's.

A checkpoint carries the number of its schema: which keys its config has, and how it lies on disk. Whoever adds, renames
or drops a config key appends a migration here, which makes today's number one greater: tests/config/test_migrations.py
fails until that is done. A new loss or evaluator needs none, as no checkpoint has it. A migration gives a new key the
value with which today's code does what the older code did. That need not be the value with which configs/common.py
starts new runs.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from bridge_jax.config.convert import ConfigError

REFUSED = {  # older schema -> why its checkpoints are not read
    1: "it has no hash of its files, so damage could not be told; go on with the code that wrote it, or train again",
}


def _from_2(config: dict[str, Any]) -> None:
    """Fill in what was added while the number stood still, so all, some or none of it may be there already.

    `blocks.remat` became a word of what is computed again.
    """
    _fill(
        config,
        {
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},  # every device had a copy of everything
            "sharding": [[".*", []]],
            "blocks": {"scan": False, "remat": "none"},
            "losses.itc.chunk_columns": 0,
            "mining.group": 0,
            "stages.*.optimizer": "adamw",
            "data.broken_limit": 0.0,  # the first broken picture stopped the run
            # So did the first bad step. No loss was a spike, whatever the window; it is that of configs/common.py, or a
            # run could not go on under its own config.
            "bad_steps": {"action": "stop", "budget": 0, "spike_sigma": 0.0, "spike_window": 128},
        },
    )
    blocks = config["blocks"]
    if isinstance(blocks, dict) and isinstance(remat := blocks.get("remat"), bool):
        blocks["remat"] = "full" if remat else "none"


def _from_3(config: dict[str, Any]) -> None:
    _fill(config, {"stages.*.microbatches": 1})


def _from_4(config: dict[str, Any]) -> None:
    _fill(config, {"data.squash": False, "data.mixture": []})


def _from_5(config: dict[str, Any]) -> None:
    """Add nothing: what is new is the loss vqa_generative, which no older run had."""
    del config


_FIRST = 2
# The first makes schema 3 of schema _FIRST.
MIGRATIONS: tuple[Callable[[dict[str, Any]], None], ...] = (_from_2, _from_3, _from_4, _from_5)
SCHEMA = _FIRST + len(MIGRATIONS)


def migrate(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what a checkpoint says of itself, with its `config` and its `schema` as today's code writes them.

    Raises ConfigError, naming `where` and the reason, for a schema that is newer, unknown or no longer read, and for
    another thing than a config.
    """
    schema = record.get("schema")
    if type(schema) is not int or not _FIRST <= schema <= SCHEMA:
        newer = type(schema) is int and schema > SCHEMA
        reason = "newer code wrote it: update bridge_jax" if newer else "it is no checkpoint of this code"
        if type(schema) is int and schema in REFUSED:
            reason = REFUSED[schema]
        raise ConfigError(f"{where}: checkpoint schema {schema}, this code reads {_FIRST} to {SCHEMA}: {reason}")
    record = copy.deepcopy(dict(record))
    if not isinstance(record.get("config"), dict):
        raise ConfigError(f"{where}: config: expected a section with keys, got {record.get('config')!r}")
    for step in MIGRATIONS[schema - _FIRST :]:
        step(record["config"])
    return record | {"schema": SCHEMA}


def _fill(config: dict[str, Any], added: Mapping[str, Any]) -> None:
    """Set every key that is not there, in those sections that are; `*` is each entry of a section."""
    for key, value in added.items():
        *folders, name = key.split(".")
        sections = [config]
        for folder in folders:
            inside = [s.values() if folder == "*" else [s[folder]] for s in sections if folder in ("*", *s)]
            sections = [section for found in inside for section in found if isinstance(section, dict)]
        for section in sections:
            section.setdefault(name, copy.deepcopy(value))
