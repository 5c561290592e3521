"""What all tests share: a compilation cache, and the way to data that is not part of the project."""

from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parents[1]

# Compiling is most of the time of the suite, and the programs hardly change from one run to the next.
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".pytest_cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and weights beside the repository; where it is absent, tests of them are skipped."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir() or not (folder / "weights").is_dir():
        pytest.skip("the data and weights of ../shared are absent")
    return folder
