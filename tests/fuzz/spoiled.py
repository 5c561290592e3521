"""Files that are almost right: valid bytes with some changed, and valid JSON with some values changed."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

ODD = [b"\0", b"\xff", b"\xef\xbb\xbf", b"../", b"9" * 40, *(bytes([one]) for one in b'\r\n",;\t|{[\\')]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
DEEP = "[" * 20_000


@st.composite
def changed(draw: st.DrawFn, valid: bytes) -> bytes:
    """Return `valid` after one to four edits: bytes that are replaced, put in, left out, repeated or cut off."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        first, last = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        last = min(last, first + draw(st.sampled_from([1, 4, 16, 256, 1 << 20])))
        kind = draw(st.sampled_from(["replace", "insert", "delete", "repeat", "cut", "zero"]))
        if kind == "replace":
            content[first:last] = draw(st.binary(max_size=16) | st.sampled_from(ODD))
        elif kind == "insert":
            content[first:first] = draw(st.binary(max_size=16) | st.sampled_from(ODD))
        elif kind == "delete":
            del content[first:last]
        elif kind == "repeat":
            content[first:first] = content[first:last]
        elif kind == "zero":
            content[first:last] = bytes(last - first)
        else:
            del content[first:]
    return bytes(content)


@st.composite
def other_values(draw: st.DrawFn, valid: bytes) -> bytes:
    """Return JSON with one to three of its values replaced, or its keys left out. `valid` may hold an object a line."""
    try:
        lines = [json.loads(valid)]
    except ValueError:
        lines = [json.loads(line) for line in valid.splitlines()]
    lines = copy.deepcopy(lines)
    for _ in range(draw(st.integers(1, 3))):
        spot: Any = lines
        key: Any = draw(st.integers(0, len(lines) - 1))
        while isinstance(spot[key], dict | list) and spot[key] and draw(st.integers(0, 3)):
            spot = spot[key]
            key = draw(st.sampled_from(list(spot) if isinstance(spot, dict) else range(len(spot))))
        if isinstance(spot, dict) and draw(st.booleans()):
            del spot[key]
        else:
            spot[key] = draw(VALUES)
    text = "\n".join(json.dumps(line) for line in lines)
    return (text.replace('"deep"', DEEP) if draw(st.integers(0, 9)) == 0 else text).encode()


def like(valid: bytes) -> st.SearchStrategy[bytes]:
    """Return the strategy of files that are almost `valid`."""
    if valid[:1] == b"{" or valid[:2] in (b'["', b"[{"):
        return changed(valid) | other_values(valid) | st.sampled_from([b"", DEEP.encode()])
    return changed(valid) | st.just(b"")
