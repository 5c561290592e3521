"""Match parameter paths with rules: training or freezing, learning-rate factors, decay and sharding all use this.

Rules are (pattern, value) pairs. A pattern is a regular expression that must match a whole parameter path such as
`vision/block_07/attention/query/kernel`; the first rule that matches wins. A parameter that no rule matches is an
error, and so is a rule that wins no parameter.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from bridge_jax.config import ConfigError, Rules, nearest


def match(rules: Rules, known: Iterable[str], key: str) -> dict[str, Any]:
    """Return path -> value of the first matching rule, for every path.

    >>> match((("a/.*", 1), (".*", 2)), ["a/x", "b/y"], "config.demo")
    {'a/x': 1, 'b/y': 2}

    Raises ConfigError, naming the config key, if a rule wins no path or no rule matches a path.
    """
    known = list(known)
    compiled = []
    for pattern, value in rules:
        try:
            compiled.append((re.compile(pattern), value))
        except re.error as error:
            raise ConfigError(f"{key}: {pattern!r} is not a regular expression ({error})") from error
    values, used = {}, set()
    for path in known:
        for index, (pattern, value) in enumerate(compiled):
            if pattern.fullmatch(path):
                values[path] = value
                used.add(index)
                break
        else:
            raise ConfigError(f"{key}: no rule matches parameter {path!r}; add one, such as ('.*', ...) at the end")
    for index, (pattern, _) in enumerate(compiled):
        if index not in used:
            shadowed = any(pattern.fullmatch(path) for path in known)
            why = "is hidden by the rules before it" if shadowed else "matches no parameter"
            groups = {"/".join(p.split("/")[:n]) + "/.*" for p in known for n in (1, 2)}
            hint = "move it up or delete it" if shadowed else nearest(pattern.pattern, groups)
            raise ConfigError(f"{key}: rule {pattern.pattern!r} {why}; {hint}. See python -m tools.show_params")
    return values


def any_of(patterns: Iterable[str], known: Iterable[str], key: str) -> Mapping[str, bool]:
    """Return path -> whether one of the patterns matches it. Raises ConfigError if a pattern wins no path."""
    known = list(known)
    unmatched = [path for path in known if not any(re.fullmatch(pattern, path) for pattern in patterns)]
    rules = tuple((pattern, True) for pattern in patterns)
    return match(rules, [path for path in known if path not in set(unmatched)], key) | dict.fromkeys(unmatched, False)
