import re

import jax.numpy as jnp
import numpy as np
import pytest

from bridge_jax import paths, rules
from bridge_jax.config import ConfigError

PATHS = [
    "heads/log_scale",
    "text/block_00/mlp/in/kernel",
    "vision/block_00/attention/query/bias",
    "vision/block_00/attention/query/kernel",
    "vision/block_10/mlp/in/kernel",
]


def slow_match(pairs, known):
    """The slow twin: ask every rule about every path, keep the first answer."""
    return {path: next(value for pattern, value in pairs if re.fullmatch(pattern, path)) for path in known}


def test_paths_of_a_tree():
    tree = {"b": {"kernel": 1, "bias": 2}, "a": [jnp.zeros(1), {"x": np.zeros(2)}], "none": None}
    assert paths.every(tree) == ["a/0", "a/1/x", "b/bias", "b/kernel"]


def test_the_first_match_wins():
    pairs = (("vision/.*/bias", 1), ("vision/.*", 2), (".*", 3))
    assert rules.match(pairs, PATHS, "config.demo") == {
        "heads/log_scale": 3,
        "text/block_00/mlp/in/kernel": 3,
        "vision/block_00/attention/query/bias": 1,
        "vision/block_00/attention/query/kernel": 2,
        "vision/block_10/mlp/in/kernel": 2,
    }


def test_agrees_with_asking_everything():
    pairs = ((r".*/block_\d0/.*kernel", 0.5), ("(vision|text)/.*", 0.0), (r"heads/.*", None))
    assert dict(rules.match(pairs, PATHS, "config.demo")) == slow_match(pairs, PATHS)


def test_a_pattern_matches_the_whole_path():
    with pytest.raises(ConfigError, match=r"no rule matches parameter 'vision/block_1'"):
        rules.match((("vision/block", 1), ("block_1", 2)), ["vision/block_1"], "config.demo")


def test_false_and_none_are_values():
    assert rules.match(((".*bias", False), (".*", None)), ["a/bias", "b"], "k") == {"a/bias": False, "b": None}


def test_a_path_without_a_rule_is_refused():
    text = r"^config\.stages\.align\.train: no rule matches parameter 'heads/log_scale'; add one, such as \('\.\*', "
    with pytest.raises(ConfigError, match=text):
        rules.match((("vision/.*", True), ("text/.*", False)), PATHS, "config.stages.align.train")


def test_a_rule_that_matches_nothing_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"^k: rule 'vison/\.\*' matches no parameter; nearest: 'vision/\.\*'\. See"):
        rules.match((("vison/.*", 1), (".*", 2)), PATHS, "k")


def test_a_rule_that_is_hidden_is_refused():
    with pytest.raises(ConfigError, match=r"^k: rule 'vision/\.\*' is hidden by the rules before it; move it up"):
        rules.match(((".*", 1), ("vision/.*", 2)), PATHS, "k")


def test_a_rule_hidden_in_part_is_live():
    assert rules.match((("vision/block_00/.*", 1), ("vision/.*", 2)), PATHS[2:], "k")[PATHS[-1]] == 2


def test_a_pattern_that_is_no_expression_is_refused():
    with pytest.raises(ConfigError, match=r"^k: 'vision/\(' is not a regular expression"):
        rules.match((("vision/(", 1),), PATHS, "k")


def test_any_of():
    matched = rules.any_of((r".*/bias", r".*log_scale"), PATHS, "config.no_decay")
    assert {path for path, hit in matched.items() if hit} == {PATHS[0], PATHS[2]}
    assert set(matched) == set(PATHS)
    with pytest.raises(ConfigError, match=r"^config\.no_decay: rule '\.\*/scale' matches no parameter"):
        rules.any_of((r".*/bias", r".*/scale"), PATHS, "config.no_decay")


def test_any_of_may_name_nothing():
    assert not any(rules.any_of((), PATHS, "k").values())
