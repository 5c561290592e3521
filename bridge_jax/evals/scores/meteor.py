"""METEOR of captions by its own Java program, where there is one: `java`, and the jar that pycocoevalcap brings.

    pip install 'bridge_jax[java]'    (and a Java runtime, such as Debian's default-jre-headless)

Stemming, synonyms and paraphrases are the program's (METEOR 1.5, Denkowski and Lavie 2014; 60 MB of tables), so it is
called and not written anew. SPICE, whose jar is in the same package, would also fetch Stanford's CoreNLP at its first
call, and is not computed.
"""

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

_OPTIONS = ("-Dfile.encoding=UTF-8", "-Xmx2G")  # whatever the locale; as the COCO code has it
_ARGUMENTS = ("-", "-", "-stdio", "-l", "en", "-norm")


class MeteorError(RuntimeError):
    """The program ended or answered something that is no score."""


def missing() -> str:
    """Return in a line what METEOR cannot be computed without; empty where all is there."""
    if shutil.which("java") is None:
        return "no java on the PATH; install a Java runtime"
    if _jar() is None:
        return "pycocoevalcap, which brings its program, is not installed: pip install 'bridge_jax[java]'"
    return ""


def scores(candidates: Sequence[str], references: Sequence[Sequence[str]], samples: int, seed: int) -> dict[str, float]:
    """Return `meteor`, 0 to 1, of one candidate a picture, and its 95 % interval as `meteor_low` and `_high`.

    Captions are tokenised (`ptb.tokenise`), as the COCO code gives them to the program. The score of a set is of its
    summed counts, no mean; so is that of every one of the `samples` draws of as many pictures with replacement.
    Raises MeteorError where the program cannot be run or fails.
    """
    with _program() as program:
        counts = np.stack([program.counts(*pair) for pair in zip(candidates, references, strict=True)])
        generator, n = np.random.default_rng(seed), len(counts)
        draws = (counts[generator.integers(n, size=n)].sum(axis=0) for _ in range(samples))
        low, high = np.percentile([program.score(drawn) for drawn in draws], (2.5, 97.5))
        return {"meteor": program.score(counts.sum(axis=0)), "meteor_low": float(low), "meteor_high": float(high)}


class _Program:
    """The running program: a line in, a line out."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process

    def counts(self, candidate: str, references: Sequence[str]) -> np.ndarray:
        """Return what the program counts of a picture: words, matches of every kind, chunks."""
        (line,) = self._ask(["SCORE", *references, candidate], lines=1)
        try:
            return np.array([float(count) for count in line.split()])
        except ValueError as error:
            raise MeteorError(f"expected counts of {candidate!r}, got {line!r}") from error

    def score(self, counts: np.ndarray) -> float:
        """Return the score of summed counts."""
        line = self._ask(["EVAL", " ".join(f"{count:.0f}" for count in counts)], lines=2)[-1]  # of the one, of the set
        try:
            return float(line)
        except ValueError as error:
            raise MeteorError(f"expected a score, got {line!r}") from error

    def _ask(self, parts: Sequence[str], lines: int) -> list[str]:
        asked, answers = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answers is not None
        try:
            asked.write(" ||| ".join(" ".join(part.replace("|||", " ").split()) for part in parts) + "\n")
            asked.flush()
        except OSError as error:
            raise MeteorError(f"the program ended ({error})") from error
        found = [answers.readline() for _ in range(lines)]
        if not found[-1]:
            raise MeteorError("the program ended without an answer")
        return [line.strip() for line in found]


@contextmanager
def _program() -> Iterator[_Program]:
    if says := missing():
        raise MeteorError(says)
    command = ["java", *_OPTIONS, "-jar", str(_jar()), *_ARGUMENTS]
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, encoding="utf-8")
    except OSError as error:
        raise MeteorError(f"java cannot be run ({error})") from error
    try:
        yield _Program(process)
    finally:
        process.kill()  # it has nothing to write down
        process.communicate()


def _jar() -> Path | None:
    """Return the program, without importing the package it lies in."""
    found = importlib.util.find_spec("pycocoevalcap")
    folders = [] if found is None else found.submodule_search_locations or []
    jars = [Path(folder) / "meteor" / "meteor-1.5.jar" for folder in folders]
    return next((jar for jar in jars if jar.is_file()), None)
