"""tools.bench_rerank as a user runs it: both ways give one answer."""

import re
import subprocess
import sys


def test_both_ways_give_the_same_logits():
    words = ["--config=configs/shapes.py", "--candidates=3", "--batch=2", "--rounds=1"]
    command = [sys.executable, "-m", "tools.bench_rerank", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    gathered, repeated, differ = done.stdout.splitlines()
    for way, line in (("gathered", gathered), ("repeated", repeated)):
        assert re.fullmatch(rf"{way}: \d+ ms for 3 candidates, [\d.]+ pairs/s", line)
    assert float(re.fullmatch(r"the logits differ by (\S+) at most", differ)[1]) < 1e-5
