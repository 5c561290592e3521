"""tools.bench_prepare as a user runs it, on a few small pictures."""

import re

from bridge_jax.data import image
from bridge_jax.data.datasets import photo_builder, tars
from tests import process


def test_both_rates_and_the_memory_of_each_process_are_shown(tmp_path):
    flags = ("--tars=2", "--pictures=505", "--px=32", "--num_workers=2", f"--folder={tmp_path}")
    done = process.run("tools.bench_prepare", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1,010 pairs in 2 tars, 2 processes" in done.stdout
    rates = re.findall(r"│ ([a-z ]+?) +│ +([\d,]+) │ +(\d+) % │", done.stdout)
    assert [name for name, *_ in rates] == ["read and check alone", "prepare"]
    peaks = re.search(r"the command's own first: ([\d, ]+) MB", done.stdout)[1].split(", ")
    assert len(peaks) >= 3  # itself, the server that starts processes, and they
    assert all(int(peak) > 0 for peak in peaks)
    assert re.search(r"50,000,000 such pairs: [\d.,]+ core hours, [\d,]+ GB", done.stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    found = [sample.path for tar in tmp_path.glob("raw/*.tar") for sample in tars.read(tar, photo_builder.at_once)]
    pixels = {image.eval_view(picture.read_bytes(), 32, False).tobytes() for picture in found}
    assert len(pixels) == len(found) == 1010  # the last ten are the first ten with another quantisation table
