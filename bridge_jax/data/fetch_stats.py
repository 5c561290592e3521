"""Read what img2dataset tells of the pictures that it could not fetch: 00000_stats.json beside 00000.tar.

    read(Path("raw/00000.tar"))         Counter({"success": 9120, "HTTP Error 404: Not Found": 731, ...})

A status is "success", or the reason of a failure in the words of img2dataset.
"""

import collections
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bridge_jax.config import ConfigError, as_json

KEY = "img2dataset"  # in the metadata of a prepared data set: status -> pictures
_SUCCESS = "success"
_REST = "other reasons"
_SHOWN, _KEPT = 3, 20  # reasons in a line, and of a tar: many name a single host
_LONGEST = 100  # characters of a reason


def read(tar: Path) -> collections.Counter[str]:
    """Return status -> pictures of a tar, nothing where img2dataset tells none. Raises ConfigError."""
    file = tar.with_name(f"{tar.stem}_stats.json")
    if not file.is_file():
        return collections.Counter()
    try:
        told = as_json.loads(file.read_bytes())
        count, successes, statuses = (told[name] for name in ("count", "successes", "status_dict"))
        numbers = [count, successes, *statuses.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        numbers = [None]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ConfigError(
            f"{file}: expected the counts of img2dataset (count, successes, status_dict); fetch it again or delete it"
        )
    reasons: collections.Counter[str] = collections.Counter()
    for status, number in statuses.items():
        if status != _SUCCESS:
            reasons[_plain(status)] += number
    found = collections.Counter({_SUCCESS: successes}) + collections.Counter(dict(_most(reasons)[:_KEPT]))
    found[_REST] += max(0, count - found.total())  # img2dataset drops the rarest reasons too
    return +found


def read_all(folder: Path, refuse: Callable[[str], None]) -> collections.Counter[str]:
    """Return status -> pictures of all tars in a folder or in its folders; call `refuse` for each fault."""
    found: collections.Counter[str] = collections.Counter()
    for tar in sorted(folder.glob("*.tar")) or sorted(folder.glob("*/*.tar")):
        try:
            found += read(tar)
        except ConfigError as error:
            refuse(str(error))
    return found


def failures(statuses: Mapping[str, int]) -> collections.Counter[str]:
    """Return reason -> pictures, the most frequent first."""
    return collections.Counter(dict(_most({name: count for name, count in statuses.items() if name != _SUCCESS})))


def _plain(reason: str) -> str:
    """Return a reason that fits into a line and can be printed."""
    return " ".join("".join(one if one.isprintable() else " " for one in reason).split())[:_LONGEST]


def _most(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))


def summary(metadata: Mapping[str, Any]) -> str:
    """Return the end of a line that counts what was not fetched, from metadata; empty where nothing is known."""
    if KEY not in metadata:
        return ""
    failed, total = failures(metadata[KEY]), sum(metadata[KEY].values())
    shown = [f"{reason} {count:,}" for reason, count in list(failed.items())[:_SHOWN]]
    if rest := list(failed.values())[_SHOWN:]:
        shown.append(f"{len(rest)} more {sum(rest):,}")
    reasons = f" ({', '.join(shown)})" if shown else ""
    return f"; img2dataset did not fetch {failed.total():,} of {total:,}{reasons}"
