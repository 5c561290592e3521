"""Configs as older code wrote them, brought up to date; and that no key is added without a schema of its own.

tests/schemas/N_COMMIT.json is configs/shapes.py as a checkpoint of schema N held it at that commit (number 2 stood
still while keys were added), N_keys.txt the keys of a config of schema N, the fewest that were written under that
number. What has been committed there is never changed; only the keys of a loss or an evaluator that is new altogether
are added to those of today's schema, as no checkpoint has any of them.
"""

import copy
import importlib
import inspect
import json
import pkgutil
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path

import pytest

from bridge_jax import config, evals, losses
from bridge_jax.config import ConfigError, migrations, objectives
from bridge_jax.config.as_json import differences
from bridge_jax.config.convert import keys
from bridge_jax.config.migrations import SCHEMA, migrate
from bridge_jax.workdir.meta import Meta, read_config, read_meta

FOLDER = Path(__file__).parents[1] / "schemas"
SAVED = sorted(path.name for path in FOLDER.glob("*.json"))
MOVED_IN_7 = {
    "data.mask_text_fraction": "losses.mlm.mask_fraction",
    "data.mask_patch_fraction": "losses.mim.mask_fraction",
}
ADDED_IN_3 = {  # key -> what the code did before it was there
    "bad_steps.action": "stop",
    "bad_steps.budget": 0,
    "bad_steps.spike_sigma": 0.0,
    "bad_steps.spike_window": 128,
    "blocks.remat": "none",
    "blocks.scan": False,
    "data.broken_limit": 0.0,
    "losses.itc.chunk_columns": 0,
    "mesh.data": -1,
    "mesh.fsdp": 1,
    "mesh.tensor": 1,
    "mining.group": 0,
    "sharding": [[".*", []]],
    "stages.align.optimizer": "adamw",
    "stages.stabilise.optimizer": "adamw",
    "stages.task.optimizer": "adamw",
}


def schema_of(name: str) -> int:
    return int(re.match(r"\d+", name)[0])


def record(name: str) -> dict:
    saved = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return {"schema": schema_of(name), "step": 7, "stage": "align", "config": saved, "fused_trained": True}


def keys_of(schema: int) -> list[str]:
    return (FOLDER / f"{schema}_keys.txt").read_text(encoding="utf-8").split()


def keys_of_class(cls: type, root: str = "") -> Iterator[str]:
    """Yield the keys of a config record; `*` is any name, a loss has its keyword arguments, an evaluator Settings."""
    for name, hint in keys(cls).items():
        if typing.get_origin(hint) is types.UnionType:  # a section that may be left out
            hint = typing.get_args(hint)[0]
        if is_dataclass(hint):
            yield from keys_of_class(typing.cast(type, hint), f"{root}{name}.")
        elif typing.get_origin(hint) is Mapping and is_dataclass(inner := typing.get_args(hint)[1]):
            yield from keys_of_class(typing.cast(type, inner), f"{root}{name}.*.")
        elif root + name == "losses":
            for loss in pkgutil.iter_modules(losses.__path__):
                function = importlib.import_module(f"bridge_jax.losses.{loss.name}").loss
                arguments = set(inspect.signature(function).parameters) - {"outputs", "batch"}
                yield from (f"losses.{loss.name}.{argument}" for argument in {"weight", *arguments})
        elif root + name == "evals":
            for file in pkgutil.iter_modules(evals.__path__):
                module = importlib.import_module(f"bridge_jax.evals.{file.name}")
                if hasattr(module, "Evaluator"):
                    yield from keys_of_class(module.Evaluator.Settings, f"evals.{file.name}.")
        else:
            yield root + name


def flat(section: Mapping, root: str = "") -> dict:
    found = {}
    for name, value in section.items():
        inside = isinstance(value, Mapping)
        found |= flat(value, f"{root}{name}.") if inside else {root + name: value}
    return found


def test_every_key_belongs_to_todays_schema():
    now, listed = sorted(keys_of_class(config.Config)), keys_of(SCHEMA)
    added, gone = sorted(set(now) - set(listed)), sorted(set(listed) - set(now))
    assert now == listed, (
        f"config keys added: {added}, gone: {gone}. Append a migration to bridge_jax/config/migrations.py, keep "
        f"tests/schemas/{SCHEMA}_keys.txt as it is, and write {SCHEMA + 1}_keys.txt and {SCHEMA + 1}.json; only keys "
        f"of a loss or an evaluator that is new altogether are added to {SCHEMA}_keys.txt"
    )


@pytest.mark.parametrize("schema", range(migrations._FIRST, SCHEMA))
def test_a_migration_gives_what_the_next_schema_has_besides(schema):
    nested: dict = {}
    for key in keys_of(schema):
        *folders, name = key.split(".")
        section = nested
        for folder in folders:
            section = section.setdefault(folder, {})
        section[name] = "as it was"
    migrations.MIGRATIONS[schema - migrations._FIRST](nested)
    found, wanted = set(flat(nested)), set(keys_of(schema + 1))
    assert not found - wanted
    sections = {key.rpartition(".")[0] for key in found}
    for key in wanted - found:  # only of an evaluator or a loss that older code did not have
        assert key.startswith(("evals.", "losses.", "decoder."))
        assert key.rpartition(".")[0] not in sections


def test_every_schema_is_refused_with_a_reason_or_has_a_config_to_try():
    assert migrations.REFUSED.keys() == set(range(1, migrations._FIRST))
    assert {schema_of(name) for name in SAVED} == set(range(migrations._FIRST, SCHEMA + 1))


@pytest.mark.parametrize("name", SAVED)
def test_a_config_as_it_was_written_is_read(name):
    before = record(name)
    kept = copy.deepcopy(before)
    meta = read_meta(before, name)
    assert before == kept
    assert meta == Meta(schema=SCHEMA, step=7, stage="align", config=meta.config, fused_trained=True)
    cfg = read_config(meta, name)
    for loss, arguments in cfg.losses.items():
        objectives.bind(loss, arguments)  # raises where an argument is missing
    assert differences(meta.config, cfg) == []
    was, is_now = flat(before["config"]), flat(meta.config)
    renamed = {*MOVED_IN_7, "mining.wrong_captions", "blocks.attention"}
    was = {key: value for key, value in was.items() if key not in renamed}
    assert {key: is_now[key] for key in was} == was | dict.fromkeys(was.keys() & {"blocks.remat"}, "none")


@pytest.mark.parametrize("name", [name for name in SAVED if name.startswith("2_")])
def test_what_was_not_there_gets_what_the_code_did(name):
    before = flat(record(name)["config"])
    after = record(name)["config"]
    migrations.MIGRATIONS[0](after)
    after = flat(after)
    assert {key: value for key, value in after.items() if key not in before} == {
        key: value for key, value in ADDED_IN_3.items() if key not in before
    }


def test_the_first_config_of_schema_2_had_none_of_them():
    assert not flat(record("2_8cc157d.json")["config"]).keys() & ADDED_IN_3.keys()


@pytest.mark.parametrize(("was", "is_now"), [(False, "none"), (True, "full"), ("dots", "dots")])
def test_what_was_computed_again_is_still(was, is_now):
    before = record("2_d5f34be.json")
    before["config"]["blocks"]["remat"] = was
    assert migrate(before, "x")["config"]["blocks"]["remat"] == is_now


def test_the_shares_of_what_is_masked_move_to_their_losses():
    before = record("6.json")
    before["config"]["losses"] |= {"mlm": {"weight": 1.0}, "mim": {"weight": 0.1, "target": "pixels"}}
    was, after = flat(before["config"]), flat(migrate(before, "x")["config"])
    assert {now: after[now] for now in MOVED_IN_7.values()} == {now: was[key] for key, now in MOVED_IN_7.items()}
    assert not MOVED_IN_7.keys() & after.keys()


def test_the_number_of_wrong_captions_moves_to_every_stage():
    before = record("10.json")
    before["config"]["mining"]["wrong_captions"] = 3
    after = migrate(before, "x")["config"]
    assert "wrong_captions" not in after["mining"]
    assert {name: stage["wrong_captions"] for name, stage in after["stages"].items()} == dict.fromkeys(
        ("stabilise", "align", "task"), 3
    )


def test_the_form_of_attention_is_that_of_all_kernels():
    before = record("14.json")
    before["config"]["blocks"]["attention"] = "plain"
    assert migrate(before, "x")["config"]["blocks"] == {"scan": False, "remat": "none", "kernels": "plain"}


def test_a_loss_that_a_run_did_not_use_is_not_made_up():
    before = record("2_8cc157d.json")
    before["config"]["losses"] = {"itm": {"weight": 1.0}}
    assert migrate(before, "x")["config"]["losses"] == {"itm": {"weight": 1.0}}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (1, "it has no hash of its files"),
        (SCHEMA + 1, "newer code wrote it: update bridge_jax"),
        (0, "it is no checkpoint of this code"),
        ("x", "it is no checkpoint of this code"),
        (2.0, "it is no checkpoint of this code"),
        (True, "it is no checkpoint of this code"),
        (None, "it is no checkpoint of this code"),
    ],
)
def test_another_schema_is_refused_with_the_reason(schema, reason):
    says = f"^runs/a: checkpoint schema {schema}, this code reads 2 to {SCHEMA}: {reason}"
    with pytest.raises(ConfigError, match=says):
        read_meta({"schema": schema}, "runs/a")


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("words", "config: expected a section with keys, got 'words'"),
        ({"stages": 3, "losses": []}, "config.seed is missing; .*; another version of the code wrote it"),
    ],
)
def test_what_is_no_config_is_named(broken, says):
    with pytest.raises(ConfigError, match=f"^runs/a: {says}"):
        read_config(read_meta(record("2_8cc157d.json") | {"config": broken}, "runs/a"), "runs/a")
