import dataclasses
import re
from types import MappingProxyType

import pytest

from bridge_jax.config import Config, ConfigError, evaluators, nearest, objectives, parse
from configs import common, shapes


@pytest.fixture
def config():
    config = shapes.get_config()
    config.unlock()
    return config


def put(config, key, value):
    """Set `a.b.c` on the config."""
    *folders, name = key.split(".")
    for folder in folders:
        config = config[folder]
    if name in config:
        del config[name]  # a ConfigDict turns a new value into the type of the old one where it can
    config[name] = value


def refused(config, text):
    with pytest.raises(ConfigError) as caught:
        parse(config)
    assert "\n" not in str(caught.value)
    assert re.search(text, str(caught.value)), caught.value


def test_the_shipped_config_keeps_its_values(config):
    cfg = parse(config)
    assert cfg.vision.image_px == config.vision.image_px
    assert cfg.losses["itc"]["weight"] == config.losses.itc.weight
    assert tuple(cfg.stages) == tuple(config.stages)
    assert cfg.stages["align"].train == tuple(config.stages.align.train)
    assert cfg.evals["retrieval"].rerank_top_k == config.evals.retrieval.rerank_top_k


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("sede", r"^config\.sede is not a config key; nearest: 'seed'$"),
        ("vision.imagepx", r"^config\.vision\.imagepx is not a config key; nearest: 'image_px'$"),
        ("stages.align.learning_rat", r"^config\.stages\.align\.learning_rat .* nearest: 'learning_rate'$"),
        (
            "evals.zzz",
            r"^config\.evals\.zzz is not a config key; known: caption, compositionality, eccv_caption, mlm, nlvr2, ",
        ),
        ("evals.retrieval.zzz", r"^config\.evals\.retrieval\.zzz is not a config key; known: .*batch_size, .*folds"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(config, key, text):
    put(config, key, 1)
    refused(config, text)


@pytest.mark.parametrize("key", ["seed", "vision.depth", "stages.task.clip_norm", "evals.retrieval.folds", "evals"])
def test_a_missing_key_is_refused(config, key):
    *folders, name = key.split(".")
    section = config
    for folder in folders:
        section = section[folder]
    del section[name]
    refused(config, rf"^config\.{re.escape(key)} is missing; add it to the config file")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("seed", "0", r"config\.seed: expected int, got '0'"),
        ("seed", True, r"config\.seed: expected int, got True"),
        ("seed", 1.0, r"config\.seed: expected int, got 1\.0"),
        ("bridge.tau_start", True, r"config\.bridge\.tau_start: expected float, got True"),
        ("bridge.tau_start", None, r"config\.bridge\.tau_start: expected float, got None"),
        ("data.flip", 1, r"config\.data\.flip: expected bool, got 1"),
        ("vision.mean", 0.5, r"config\.vision\.mean: expected a tuple, got 0\.5"),
        ("vision.mean", (0.5, "x", 0.5), r"config\.vision\.mean\[1\]: expected float, got 'x'"),
        ("vision", 3, r"config\.vision: expected a section with keys, got 3"),
        ("losses", (1,), r"config\.losses: expected a section with keys, got \(1,\)"),
        ("losses.itc", 1.0, r"config\.losses\.itc: expected a section with keys, got 1\.0"),
        ("stages.task.train", ((".*", True, 1),), r"config\.stages\.task\.train\[0\]: expected 2 values, got "),
        ("stages.task.train", ((3, True),), r"config\.stages\.task\.train\[0\]\[0\]: expected str, got 3"),
        ("compute_dtype", "float16", r"config\.compute_dtype: 'float16' is unknown; nearest: '(b)?float"),
    ],
)
def test_a_wrong_type_is_refused(config, key, value, text):
    put(config, key, value)
    refused(config, f"^{text}")


def test_an_int_serves_as_float_and_a_list_as_tuple(config):
    put(config, "bridge.tau_start", 1)
    put(config, "vision.mean", [0, 0.5, 1])
    cfg = parse(config)
    assert type(cfg.bridge.tau_start) is float
    assert cfg.vision.mean == (0.0, 0.5, 1.0)
    assert all(type(value) is float for value in cfg.vision.mean)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"vision.heads": 5}, r"config\.vision: width \d+ is not a multiple of 5 heads"),
        ({"text.heads": 5}, r"config\.text: width"),
        ({"bridge.heads": 5}, r"config\.bridge: width"),
        ({"bridge.heads": 0}, r"config\.bridge: width"),
        ({"vision.image_px": 65}, r"config\.vision\.image_px 65 is not a multiple of patch_px"),
        ({"text.length": 1000}, r"config\.text\.length 1000 exceeds max_positions"),
        ({"bridge.design": "crss"}, r"config\.bridge\.design: 'crss' is unknown; nearest: 'cross'"),
        ({"bridge.placement": "topp"}, r"config\.bridge\.placement: 'topp' is unknown; nearest: 'top'"),
        ({"bridge.layers": 0}, r"config\.bridge\.layers is 0; placement 'middle' needs 1 to 4"),
        ({"bridge.layers": 5}, r"config\.bridge\.layers is 5; placement 'middle' needs 1 to 4 \(towers of 4 and 4"),
        ({"bridge.design": "none"}, r"config\.bridge\.layers is 2; design 'none' has none: set it to 0"),
        ({"bridge.gate_start": 1.0}, r"config\.bridge\.gate_start is 1\.0; it must lie in \(0, 1\)"),
        ({"bridge.tau_start": 0.0}, r"config\.bridge\.tau_start is 0\.0; it must be positive"),
        ({"stage_order": ("align", "taks")}, r"config\.stage_order: 'taks' is unknown; nearest: 'task'"),
        ({"stage_order": ("align", "align")}, r"config\.stage_order names 'align' twice"),
        ({"stage_order": ()}, r"config\.stage_order is empty: name stages out of align, stabilise, task"),
        ({"stages.task.steps": 0}, r"config\.stages\.task\.steps is 0; .* drop it from stage_order"),
        ({"stages.task.losses": ()}, r"config\.stages\.task\.losses is empty: name at least one of .*itc"),
        ({"stages.task.losses": ("itd",)}, r"config\.stages\.task\.losses: 'itd' is unknown; nearest: 'it"),
        ({"stages.task.losses": ("mim",)}, r"config\.stages\.task\.losses names 'mim', but config\.losses\.mim is"),
        ({"stages.task.batch_size": 33}, r"config\.stages\.task\.batch_size 33 is not a multiple of group_ex"),
        ({"losses.itc": {}}, r"config\.losses\.itc\.weight is missing; add it to the config file$"),
        (
            {"losses.itc": {"weight": 1.0}},
            r"config\.losses\.itc\.chunk_columns is missing; add it to the config file \(bridge_jax/losses/itc\.py",
        ),
        ({"losses.nlvr2": {"weight": 1.0}}, r"config\.losses\.nlvr2\.pictures is missing"),
        (
            {"losses.nlvr2": {"weight": 1.0, "pictures": 0}},
            r"config\.losses\.nlvr2\.pictures is 0; a statement",
        ),
        ({"losses.idc": {"weight": 1.0}}, r"config\.losses\.idc is unknown; nearest: 'itc'"),
        ({"evals.vqaa": None}, r"config\.evals\.vqaa is not a config key; nearest: 'vqa'"),
    ],
)
def test_values_that_cannot_work_together_are_refused(config, changes, text):
    for key, value in changes.items():
        put(config, key, value)
    refused(config, f"^{text}")


def test_mim_needs_the_mask_token_only_where_a_stage_that_runs_uses_it(config):
    put(config, "losses.mim", {"weight": 1.0, "target": "pixels", "mask_fraction": 0.4})
    put(config, "stages.task.losses", ("itc", "mim"))
    refused(config, r"vision\.mask_token is False but the mim loss is in use")
    put(config, "stage_order", ("stabilise", "align"))
    parse(config)
    put(config, "stage_order", ("task",))
    put(config, "vision.mask_token", True)
    parse(config)


def test_stacked_behind_the_towers_there_may_be_more_layers_than_blocks(config):
    put(config, "bridge.placement", "after")
    put(config, "bridge.layers", 6)
    assert parse(config).bridge.layers == 6


def test_what_comes_out_cannot_be_changed(config):
    cfg = parse(config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.seed = 1  # pyright: ignore[reportAttributeAccessIssue]
    for mapping in (cfg.losses, cfg.stages, cfg.losses["itc"]):
        assert isinstance(mapping, MappingProxyType)
        with pytest.raises(TypeError):
            mapping["itc"] = {}  # pyright: ignore[reportIndexIssue]
    config.losses.itc.weight = 5.0
    assert cfg.losses["itc"]["weight"] == 1.0  # no link back to the ConfigDict


def test_no_key_has_a_default():
    sections = [Config]
    while sections:
        for field in dataclasses.fields(sections.pop()):
            assert field.default is dataclasses.MISSING, field.name
            assert field.default_factory is dataclasses.MISSING, field.name
            if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
                sections.append(field.type)


def test_nearest():
    assert nearest("vison", ["vision", "text"]) == "nearest: 'vision'"
    assert nearest("qqq", ["b", "a"]) == "known: a, b"


def with_questions(config):
    put(config, "losses.vqa", {"weight": 1.0, "answers": 17})
    put(config, "evals.vqa", common.asking())
    put(config, "stages.task.losses", ("vqa",))
    put(config, "stages.task.cached_crops", 0)


def test_an_evaluator_may_be_left_out(config):
    assert "vqa" not in parse(config).evals
    assert list(parse(config).evals) == ["retrieval"]
    with_questions(config)
    assert list(parse(config).evals) == ["retrieval", "vqa"]
    put(config, "stage_order", ("task",))
    del config.evals.retrieval
    cfg = parse(config)
    assert list(cfg.evals) == ["vqa"]
    with pytest.raises(ConfigError, match=r"config\.evals\.retrieval is missing; add it to the config file"):
        evaluators.settings(cfg, "retrieval")


def test_a_stage_is_watched_by_the_evaluator_of_its_loss(config):
    with_questions(config)
    cfg = parse(config)
    assert [objectives.evaluator_of(cfg.stages[name]) for name in ("stabilise", "task")] == ["retrieval", "vqa"]
    assert [objectives.reads(cfg.stages[name]) for name in ("stabilise", "task")] == ["captions", "questions"]


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("stages.task.losses", ("vqa", "itm"), r"stages\.task\.losses: vqa reads questions and itm reads captions"),
        ("stages.task.cached_crops", 1, r"stages\.task\.cached_crops is 1, but the cache holds pictures and captions"),
        (
            "evals.retrieval",
            None,
            r"config\.evals\.retrieval is missing: it chooses the best .*stabilise",
        ),
        ("evals.vqa", None, r"config\.evals\.vqa is missing: it chooses the best checkpoint of config\.stages\.task"),
        ("evals.vqa.batch_size", 0, r"config\.evals\.vqa\.batch_size is 0; it must be positive"),
        ("evals.vqa.folds", 5, r"^config\.evals\.vqa\.folds is not a config key"),
    ],
)
def test_questions_that_cannot_work(config, key, value, says):
    with_questions(config)
    put(config, key, value)
    refused(config, says)


def with_a_decoder_that_answers(config):
    with_questions(config)
    del config.losses.vqa
    config.losses.vqa_generative = {"weight": 1.0}
    config.stages.task.losses = ("vqa_generative",)
    common.decoder(config, "tiny")


def test_answers_of_a_decoder_are_watched_by_the_same_evaluator(config):
    with_a_decoder_that_answers(config)
    cfg = parse(config)
    assert objectives.evaluator_of(cfg.stages["task"]) == "vqa"
    assert objectives.reads(cfg.stages["task"]) == "questions"


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        (
            "decoder.reads",
            "image",
            r"config\.decoder\.reads is 'image', but .*vqa_generative needs 'fused': set config\.decoder\.reads=fused",
        ),
        ("decoder", None, r"config\.decoder is missing, but config\.losses\.vqa_generative trains it: add it"),
        (
            "losses.vqa",
            {"weight": 1.0, "answers": 17},
            r"losses: vqa and vqa_generative are both scored by config\.evals\.vqa",
        ),
        ("stages.task.losses", ("vqa_generative", "itc"), r"vqa_generative reads questions and itc reads captions"),
        ("stages.task.cached_crops", 1, r"stages\.task\.cached_crops is 1, but the cache holds pictures and captions"),
        ("evals.caption", common.caption(), r"config\.evals\.caption needs the loss caption: add it"),
    ],
)
def test_a_decoder_that_cannot_answer(config, key, value, says):
    with_a_decoder_that_answers(config)
    put(config, key, value)
    refused(config, says)


def test_a_decoder_that_no_loss_trains(config):
    common.decoder(config, "tiny")
    refused(config, r"config\.decoder is there, but no loss trains it: add caption or vqa_generative to config\.los")


def test_a_stage_of_questions_writes_no_captions(config):
    with_a_decoder_that_answers(config)
    config.losses.caption = {"weight": 1.0, "label_smoothing": 0.0}
    put(config, "stages.task.losses", ("vqa_generative", "caption"))
    refused(config, r"stages\.task\.losses: vqa_generative reads questions and caption reads captions")


def test_the_evaluator_of_answers_needs_their_loss(config):
    with_questions(config)
    put(config, "stages.task.losses", ("itc",))
    del config.losses.vqa
    refused(config, r"config\.evals\.vqa needs the loss vqa or vqa_generative: add it")
