"""Settings of mining, and of what a stage draws, that cannot work are one line that names the key."""

import pytest

from configs import shapes
from tests.config.test_checks import put, refused


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"mining.source": "spilt"}, r"config\.mining\.source: 'spilt' is unknown; nearest: 'split'"),
        ({"mining.ranks": (0, 4)}, r"config\.mining\.ranks is \(0, 4\); expected \(first, last\) with 1 <= first"),
        ({"mining.ranks": (5, 4)}, r"config\.mining\.ranks is \(5, 4\); expected"),
        (
            {"mining.refresh_steps": 9},
            r"config\.mining\.refresh_steps is 9, but partners come from the batch, .*'split'",
        ),
        ({"mining.refresh_steps": -1}, r"config\.mining\.refresh_steps is -1; it must be 0 or more"),
        ({"mining.source": "split"}, r"config\.mining\.ranks is \(0, 0\), but partners come from the whole split"),
        (
            {"mining.source": "split", "mining.ranks": (3, 4), "mining.partners": 3},
            r"config\.mining\.partners is 3, but the ranks 3 to 4 hold 2: widen config\.mining\.ranks",
        ),
        (
            {"mining.source": "split", "mining.ranks": (1, 8), "data.mixture": (("shapes", 1.0),)},
            r"config\.mining\.source is 'split', but config\.data\.mixture joins several data sets",
        ),
        (
            {"stages.align.kind_shares": (0.5, 0.5)},
            r"config\.stages\.align\.kind_shares is \(0\.5, 0\.5\); expected a positive share for each",
        ),
        ({"stages.align.kind_shares": (0.0,)}, r"config\.stages\.align\.kind_shares is \(0\.0,\); expected a positive"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, text):
    config = shapes.get_config()
    for key, value in changes.items():
        put(config, key, value)
    refused(config, f"^{text}")
