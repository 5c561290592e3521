"""tools.bench_data as a user runs it: every part has its rate, and the shares are those of the times."""

import re

from tests import process


def test_every_part_is_timed_and_the_slowest_named(tiny_flags):
    done = process.run("tools.bench_data", *tiny_flags, "--pairs=8", "--pairs_per_second=100")
    assert (done.returncode, done.stderr) == (0, "")
    rows = re.findall(r"│ (\w+) +│ +([\d,]+) │ +(\d+) % │", done.stdout)
    assert [name for name, *_ in rows] == ["read", "view", "tokenise", "rest", "batch", "transfer", "all"]
    rates = {name: int(rate.replace(",", "")) for name, rate, _ in rows}
    slowest = re.search(r"the slowest is '(\w+)'", done.stdout)[1]
    assert rates[slowest] == min(rate for name, rate in rates.items() if name != "all")
    assert rates["all"] <= rates[slowest]
    cores = float(re.search(r"a chip at 100 pairs/s needs ([\d.]+) cores", done.stdout)[1])
    assert abs(cores - 100 / rates["all"]) <= 0.06
    assert re.search(r"the pipeline: [\d,]+ pairs/s on \d+ cores, 2 threads", done.stdout)
    assert "no JPEG among these pictures" in done.stdout


def test_a_stage_that_is_not_there_is_one_line(tiny_flags):
    done = process.run("tools.bench_data", *tiny_flags, "--stage=aling")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --stage: no stage 'aling'; nearest: 'align'\n"
