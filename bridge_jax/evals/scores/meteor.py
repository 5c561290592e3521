"""Score captions by METEOR's own Java program, where `java` and pycocoevalcap, which brings its jar, are installed.

    pip install 'bridge_jax[java]'    (and a Java runtime, such as Debian's default-jre-headless)

METEOR needs tables of stems, synonyms and paraphrases (METEOR 1.5, Denkowski and Lavie 2014; 60 MB), so its program is
called and not rewritten. SPICE is not computed: its jar is in the same package, but its first call would fetch
Stanford's CoreNLP.
"""

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

_OPTIONS = ("-Dfile.encoding=UTF-8", "-Xmx2G")  # for any locale; as in the COCO code
_ARGUMENTS = ("-", "-", "-stdio", "-l", "en", "-norm")


class MeteorError(RuntimeError):
    """The program ended, or its answer is not a score."""


def missing() -> str:
    """Return a line that names the missing program or package; empty where METEOR can be computed."""
    if shutil.which("java") is None:
        return "no java on the PATH; install a Java runtime"
    if _jar() is None:
        return "pycocoevalcap, which brings its program, is not installed: pip install 'bridge_jax[java]'"
    return ""


def scores(candidates: Sequence[str], references: Sequence[Sequence[str]], samples: int, seed: int) -> dict[str, float]:
    """Return `meteor`, 0 to 1, of one candidate a picture, and its 95 % interval as `meteor_low` and `_high`.

    Captions are tokenised (`ptb.tokenise`), as in the COCO code. The score of a set comes from its summed counts and is
    not a mean; so does the score of each of the `samples` draws of as many pictures with replacement.
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
        """Return the program's counts for a picture: words, matches of every kind, chunks."""
        (line,) = self._ask(["SCORE", *references, candidate], lines=1)
        try:
            return np.array([float(count) for count in line.split()])
        except ValueError as error:
            raise MeteorError(f"expected counts of {candidate!r}, got {line!r}") from error

    def score(self, counts: np.ndarray) -> float:
        """Return the score of summed counts."""
        line = self._ask(["EVAL", " ".join(f"{count:.0f}" for count in counts)], lines=2)[
            -1
        ]  # the first for the picture, the last for the set
        try:
            return float(line)
        except ValueError as error:
            raise MeteorError(f"expected a score, got {line!r}") from error

    def _ask(self, parts: Sequence[str], lines: int) -> list[str]:
        questions, answers = self._process.stdin, self._process.stdout
        assert questions is not None
        assert answers is not None
        try:
            questions.write(" ||| ".join(" ".join(part.replace("|||", " ").split()) for part in parts) + "\n")
            questions.flush()
        except OSError as error:
            raise MeteorError(f"the program ended ({error})") from error
        replies = [answers.readline() for _ in range(lines)]
        if not replies[-1]:
            raise MeteorError("the program ended without an answer")
        return [line.strip() for line in replies]


@contextmanager
def _program() -> Iterator[_Program]:
    if reason := missing():
        raise MeteorError(reason)
    command = ["java", *_OPTIONS, "-jar", str(_jar()), *_ARGUMENTS]
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, encoding="utf-8")
    except OSError as error:
        raise MeteorError(f"java cannot be run ({error}); check the Java runtime") from error
    try:
        yield _Program(process)
    finally:
        process.kill()  # it has nothing to save
        process.communicate()


def _jar() -> Path | None:
    """Return the path of the program's jar, without importing its package."""
    package = importlib.util.find_spec("pycocoevalcap")
    folders = [] if package is None else package.submodule_search_locations or []
    jars = [Path(folder) / "meteor" / "meteor-1.5.jar" for folder in folders]
    return next((jar for jar in jars if jar.is_file()), None)
