"""Bring checkpoints of older versions up to date: one migration per schema, run in order from theirs to today's.

A checkpoint carries the number of its schema: the keys of its config, and its layout on disk. Whoever adds, renames
or drops a config key appends a migration here, which makes today's number one greater: tests/config/test_migrations.py
fails until that is done. A new loss or evaluator needs none, as no checkpoint has it. A migration gives a new key the
value with which today's code does the same as the older code did. That need not be the value with which
configs/common.py starts new runs.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

from bridge_jax.config.convert import ConfigError

REFUSED = {  # older schema -> why its checkpoints are not read
    1: "it has no hash of its files, so damage would go unseen; continue with the code that wrote it, or train again",
}


def _from_2(config: dict[str, Any]) -> None:
    """Fill in the keys that were added while the schema stayed 2, so all, some or none may be there already.

    `blocks.remat` was a bool and became the word "full" or "none".
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
            # So did the first bad step. No loss was a spike, whatever the window; the window is that of
            # configs/common.py, because a run could not resume under its own config otherwise.
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
    """Add nothing: only the loss vqa_generative is new, and no older run had it."""
    del config


def _from_6(config: dict[str, Any]) -> None:
    """Move the shares of masked words and patches to the losses that read them. No loss read wrong captions."""
    _fill(config, {"mining.wrong_captions": 0})
    sections = {name: section for name, section in config.items() if isinstance(section, dict)}
    for name, key in (("mlm", "mask_text_fraction"), ("mim", "mask_patch_fraction")):
        if key in (data := sections.get("data", {})):
            _fill(config, {f"losses.{name}.mask_fraction": data.pop(key)})


def _from_7(config: dict[str, Any]) -> None:
    """State that the weight of reranking was given, not fitted."""
    _fill(config, {"evals.retrieval.fit_rerank_weight": False})


def _from_8(config: dict[str, Any]) -> None:
    """State what was so: partners from the batch, by margins; the towers choose; captions drawn alike."""
    keys = {"source": "batch", "refresh_steps": 0, "ranks": [0, 0], "false_margin": 2.0}
    _fill(config, {f"mining.{key}": value for key, value in keys.items()})
    _fill(config, {"evals.retrieval.select_by": "unimodal", "evals.retrieval.more_top_k": []})
    _fill(config, {"stages.*.kind_shares": []})


def _from_9(config: dict[str, Any]) -> None:
    """State that no run wrote its page at its end."""
    _fill(config, {"report": False})


def _from_10(config: dict[str, Any]) -> None:
    """Give each stage the number of wrong captions, which was one for all."""
    sections = {name: section for name, section in config.items() if isinstance(section, dict)}
    if "wrong_captions" in (mining := sections.get("mining", {})):
        _fill(config, {"stages.*.wrong_captions": mining.pop("wrong_captions")})


def _from_11(config: dict[str, Any]) -> None:
    """State that a run goes on with the records that it began with, which nothing checked."""
    _fill(config, {"data.may_change": False})


def _from_12(config: dict[str, Any]) -> None:
    """Let attention take the form that suits the devices: checkpoints do not depend on it."""
    _fill(config, {"blocks.attention": "auto"})


def _from_13(config: dict[str, Any]) -> None:
    """State that every run wrote TensorBoard's files, and nothing for another tracker; SugarCrepe has company."""
    _fill(config, {"trackers": ["tensorboard"]})
    for section in (value for name, value in config.items() if name == "evals" and isinstance(value, dict)):
        if "sugarcrepe" in section:
            section["compositionality"] = section.pop("sugarcrepe")


def _from_14(config: dict[str, Any]) -> None:
    """Let `blocks.attention` choose the kernels of affine maps and of the MLP too."""
    for section in (value for name, value in config.items() if name == "blocks" and isinstance(value, dict)):
        if "attention" in section:
            section["kernels"] = section.pop("attention")


_FIRST = 2
# The first turns schema _FIRST into schema 3.
MIGRATIONS: tuple[Callable[[dict[str, Any]], None], ...] = (
    _from_2,
    _from_3,
    _from_4,
    _from_5,
    _from_6,
    _from_7,
    _from_8,
    _from_9,
    _from_10,
    _from_11,
    _from_12,
    _from_13,
    _from_14,
)
SCHEMA = _FIRST + len(MIGRATIONS)


def migrate(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a checkpoint's description with its `config` and `schema` as today's code writes them.

    Raises ConfigError, naming `where` and the reason, if the schema is newer, unknown or no longer read, or if `config`
    is not a section with keys.
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
    for migration in MIGRATIONS[schema - _FIRST :]:
        migration(record["config"])
    return record | {"schema": SCHEMA}


def _fill(config: dict[str, Any], added: Mapping[str, Any]) -> None:
    """Set every missing key in the sections that exist; `*` stands for each entry of a section."""
    for key, value in added.items():
        *folders, name = key.split(".")
        sections = [config]
        for folder in folders:
            inside = [s.values() if folder == "*" else [s[folder]] for s in sections if folder in ("*", *s)]
            sections = [section for entries in inside for section in entries if isinstance(section, dict)]
        for section in sections:
            section.setdefault(name, copy.deepcopy(value))
