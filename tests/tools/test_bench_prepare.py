"""tools.bench_prepare as a user runs it, on a few small pictures."""

import re

from tests import process


def test_both_rates_and_the_memory_of_each_process_are_shown(tmp_path):
    flags = ("--tars=2", "--pictures=8", "--px=32", "--num_workers=2", f"--folder={tmp_path}")
    done = process.run("tools.bench_prepare", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert "16 pairs in 2 tars, 2 processes" in done.stdout
    rates = re.findall(r"│ ([a-z ]+?) +│ +([\d,]+) │ +(\d+) % │", done.stdout)
    assert [name for name, *_ in rates] == ["read and check alone", "prepare"]
    peaks = re.search(r"the command's own first: ([\d, ]+) MB", done.stdout)[1].split(", ")
    assert len(peaks) >= 3  # itself, the server that starts processes, and they
    assert all(int(peak) > 0 for peak in peaks)
    assert re.search(r"50,000,000 such pairs: [\d.,]+ core hours, [\d,]+ GB", done.stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
