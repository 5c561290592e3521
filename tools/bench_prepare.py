"""Benchmark the preparation of tars: python -m tools.bench_prepare --tars=100 --pictures=10000 --num_workers=2

Makes tars of small JPEGs, each another picture, with a caption each, and prepares them as a user does. Prints the
pairs/s; beside it the rate of as many processes that only read and check (decode) the same pictures, which is the part
of the work that cannot be left out; the peak memory of each process; and what 50 million such pairs would take.

--folder keeps the tars, and takes those that are there; without it all is in a temporary folder that is removed. Run
nothing else on the machine meanwhile.
"""

import functools
import io
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import flags
from rich.console import Console
from rich.table import Table

from bridge_jax.config import ConfigError
from bridge_jax.data import image, processes
from bridge_jax.data.datasets import cc3m, photo_builder, tars
from bridge_jax.data.encode import Stored, smaller
from bridge_jax.data.prepared import folder
from bridge_jax.run import command_line
from tools import figures

_TARS = flags.DEFINE_integer("tars", 4, "Tars to make.", lower_bound=1)
_PICTURES = flags.DEFINE_integer("pictures", 1000, "Pictures in each.", lower_bound=1)
_PX = flags.DEFINE_integer("px", 256, "Shorter side of a picture.", lower_bound=8)
_NUM_WORKERS = flags.DEFINE_integer("num_workers", None, "Processes; without it, one a core.", lower_bound=1)
_FOLDER = flags.DEFINE_string("folder", "", "Where to keep the tars and what is prepared of them.")
_SAMPLED_SECS = 0.05
_PICTURES_ENCODED, _FREQUENCIES = 1000, 3
_TABLE = b"\xff\xdb\x00\x43\x00"  # before the first quantisation table: marker, length, precision and number
_MANY = 50_000_000
_console = Console(soft_wrap=True, highlight=False)


def photo(number: int, px: int) -> bytes:
    """Return a JPEG that differs from all others, in its file and in its pixels.

    To encode a million takes hours. So there are 1,000 pictures, and each is seen through 1,000 quantisation tables:
    three of the lowest frequencies count for more in one than in another.
    """
    encoded, first = _noise(number % _PICTURES_ENCODED, px)
    changed, variant = bytearray(encoded), number // _PICTURES_ENCODED % 10**_FREQUENCIES
    for frequency in range(1, 1 + _FREQUENCIES):
        changed[first + frequency] += variant % 10
        variant //= 10
    return bytes(changed)


@functools.lru_cache(maxsize=_PICTURES_ENCODED)
def _noise(number: int, px: int) -> tuple[bytes, int]:
    """Return a JPEG of smooth noise, 4 : 3, of about as many bytes as a photo of its size; and where its table begins.

    The table is that of the luminance, one byte a frequency.
    """
    coarse = np.random.default_rng(number).integers(0, 256, (px // 8, px // 6, 3)).astype(np.uint8)
    pixels = coarse.repeat(16, axis=0).repeat(16, axis=1)
    height, width, _ = pixels.shape
    encoded = smaller(b"P6 %d %d 255\n" % (width, height) + pixels.tobytes(), Stored(px, 90))
    return encoded, encoded.index(_TABLE) + len(_TABLE)


def make(number: int, *, raw: Path, pictures: int, px: int) -> None:
    """Write a tar, unless it is there."""
    path = raw / f"{number:05d}.tar"
    if path.is_file():
        return
    fresh = path.with_suffix(".tmp")
    with tarfile.open(fresh, "w") as archive:
        for each in range(number * pictures, (number + 1) * pictures):
            caption = f"a picture of smooth noise, the {each}th of many".encode()
            for kind, content in (("jpg", photo(each, px)), ("txt", caption)):
                entry = tarfile.TarInfo(f"{each:09d}.{kind}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    fresh.replace(path)


def places(tar: Path) -> tuple[Path, list[tuple[int, int]]]:
    """Return a tar, and offset and size of each picture in it."""
    found = [sample.path for sample in tars.read(tar, photo_builder.at_once)]
    return tar, [(member.offset, member.size) for member in found if member is not None]


def check(one: tuple[Path, list[tuple[int, int]]]) -> int:
    """Read and decode the pictures of a tar, and return their number."""
    tar, members = one
    with tar.open("rb") as file:
        for offset, size in members:
            file.seek(offset)
            if fault := image.fault(file.read(size)):
                raise ConfigError(f"{tar}: {fault}")
    return len(members)


def descendants(pid: int) -> Iterator[int]:
    """Yield a process and all that it started."""
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended
        return
    for child in children:
        yield from descendants(int(child))


def peak_mb(pid: int) -> float:
    """Return the most memory that a process had so far; 0: it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def watched(words: list[str]) -> tuple[float, dict[int, float]]:
    """Run a program. Return its seconds and the peak memory of each of its processes, the first one's first."""
    started, peaks = time.perf_counter(), {}
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        for pid in descendants(process.pid):
            peaks[pid] = max(peaks.get(pid, 0.0), peak_mb(pid))
        time.sleep(_SAMPLED_SECS)
    if process.returncode:
        raise ConfigError(f"{' '.join(words)} ended with exit code {process.returncode}")
    return time.perf_counter() - started, peaks


def measure(raw: Path, out: Path, workers: int) -> None:
    """Make the tars, check them, prepare them, and print the figures."""
    each = functools.partial(make, raw=raw, pictures=_PICTURES.value, px=_PX.value)
    for _ in processes.mapped(each, range(_TARS.value), workers):
        pass
    files = sorted(raw.glob("*.tar"))
    members = [places(file) for file in files]
    started = time.perf_counter()
    count = sum(processes.mapped(check, members, workers))
    alone = count / (time.perf_counter() - started)
    words = f"--dataset=cc3m --raw_dir={raw} --data_dir={out} --num_workers={workers}"
    spent, peaks = watched([sys.executable, "-m", "tools.prepare_data", *words.split(" ")])
    rate, size = count / spent, sum(file.stat().st_size for file in folder(out, cc3m.Builder).rglob("*"))
    table = Table(title=f"{count:,} pairs in {len(files)} tars, {workers} processes")
    for title in ("what", "pairs/s", "share"):
        table.add_column(title, justify="left" if title == "what" else "right")
    table.add_row("read and check alone", f"{alone:,.0f}", "100 %")
    table.add_row("prepare", f"{rate:,.0f}", f"{100 * rate / alone:.0f} %")
    _console.print(table)
    shown = ", ".join(f"{peak:.0f}" for peak in peaks.values())
    _console.print(f"peak memory of each process, the command's own first: {shown} MB")
    figures.keep("pairs/s prepared", rate, figures.MORE, "read and check alone", alone)
    figures.keep("MB of a process at most", max(peaks.values()), figures.LESS)
    hours, stored = _MANY / rate * workers / 3600, _MANY / count * size / 1e9
    _console.print(f"{_MANY:,} such pairs: {hours:,.1f} core hours, {stored:,.0f} GB")


def main(argv: list[str]) -> None:
    """Measure in a temporary folder, or in the one that is given."""
    del argv
    with tempfile.TemporaryDirectory() as place:
        raw = Path(_FOLDER.value or place).expanduser() / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=raw.parent) as out:
            measure(raw, Path(out), _NUM_WORKERS.value or processes.usable_cores())


if __name__ == "__main__":
    command_line.run(main)
