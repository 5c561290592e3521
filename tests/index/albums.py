"""Indexes of the album of conftest.py."""

from bridge_jax.index import build

PHOTOS = 24
DAYS = {"circles": 1_700_000_000, "squares": 1_600_000_000}  # 2023-11-14 and 2020-09-13, as times of files


def make(model, photos, index, *, said=None, **parts):
    """Build an index, without a refusal if none is asked for, and return what changed."""
    say = (lambda text: None) if said is None else said.append
    parts = build.Parts(**{"refusal": False} | parts)
    return build.build(model, photos, index, parts, say=say, progress=lambda *_: None)
