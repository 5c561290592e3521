"""The run that the drills disturb, eight steps in two stages, and the same run undisturbed."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import process

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / ".pytest_cache" / "jax"
ANEW = ("env",)  # in front of a program that imports its libraries itself
CHANGED = {"stage_order": "('stabilise','align')", "stages.align.losses": "('itc','fused_itc')"}


class Run:
    """One process of a run. It has its own log; workdir and caches outlast it."""

    def __init__(self, flags: list[str], workdir: Path, programs: Path, stall: str = "", before: tuple[str, ...] = ()):
        workdir.mkdir(exist_ok=True)
        self.workdir, number = workdir, len(list(workdir.parent.glob(f"{workdir.name}.*.log")))
        self.log = workdir.with_name(f"{workdir.name}.{number:03}.log")
        self.stderr = self.log.with_suffix(".stderr")
        cache = workdir.with_name(f"{workdir.name}_cache")
        cache.mkdir(exist_ok=True)
        if not (cache / "xla").exists():
            (cache / "xla").symlink_to(programs)
        self.log.touch()
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(programs), "DRILL_LOG": str(self.log), "DRILL_STALL": stall,
        }  # fmt: skip
        words = ("tests.drills.child", *flags, f"--workdir={workdir}", f"--config.cache_dir={cache}")
        if not before:
            self.process = process.start(*words, env=environment, stderr=self.stderr)
            return
        with self.stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-m", *words], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL,
                stderr=stderr, start_new_session=True,
            )  # fmt: skip

    def lines(self) -> list[str]:
        """Return the lines of the process's log; a killed process may have left half a line."""
        return [line[:-1] for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def reaches(self, phase: str, times: int = 1) -> bool:
        """Wait until the process enters a phase. Return False if it ends before."""
        while self.lines().count(phase) < times:
            if self.process.poll() is not None:
                return False
            time.sleep(0.005)
        return True

    def seconds_until_printed(self, text: str) -> float:
        started = time.monotonic()
        while text not in self.stderr.read_text():
            assert time.monotonic() - started < 20, self.stderr.read_text()
            time.sleep(0.005)
        return time.monotonic() - started

    def end(self) -> int:
        return self.process.wait(timeout=300)


@pytest.fixture(scope="session")
def flags(tiny_flags) -> list[str]:
    """Return the flags of the disturbed run."""
    kept = [flag for flag in tiny_flags if flag.split("=")[0].removeprefix("--config.") not in (*CHANGED, "cache_dir")]
    return kept + [f"--config.{key}={value}" for key, value in CHANGED.items()]


@pytest.fixture(scope="session")
def whole(flags, tmp_path_factory) -> Run:
    """Run undisturbed, compile the programs, and log what is unpickled."""
    run = Run(flags, tmp_path_factory.mktemp("whole") / "run", PROGRAMS, "pickle", ANEW)
    assert run.end() == 0, run.stderr.read_text()
    return run


@pytest.fixture(scope="session")
def start(flags, whole, tmp_path_factory) -> Callable[..., Run]:
    """Start a process of the run: start(workdir), behind the words of `before`.

    It reads the programs that the whole run compiled. A process killed while it writes one into JAX's cache leaves half
    of it there, so the suite's own is copied.
    """
    copy = tmp_path_factory.mktemp("programs") / "copy"
    shutil.copytree(PROGRAMS, copy)
    return lambda workdir, stall="", before=(): Run(flags, workdir, copy, stall, before)


def drawn(workdir: Path) -> dict[str, str]:
    """Return stage and step -> example ids. All processes of a run must have drawn the same ids."""
    ids_of: dict[str, str] = {}
    for log in sorted(workdir.parent.glob(f"{workdir.name}.*.log")):
        for line in log.read_text().splitlines(keepends=True):
            if line.startswith("batch ") and line.endswith("\n"):
                _, stage, step, ids = line.split(" ", 3)
                assert ids_of.setdefault(f"{stage} {step}", ids) == ids
    return ids_of
