"""The TPU's compiler, with little effort: no test here depends on how well it optimises."""

import sys
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from bridge_jax.plan import hbm, hlo_text

LEAST_EFFORT = {"jax_exec_time_optimization_effort": -1.0, "jax_memory_fitting_effort": -1.0}
LIBTPU = str(Path(sys.prefix) / "libtpu")  # where launch/test.sh lays it


@pytest.fixture(scope="session")
def libtpu():
    """Let this process find libtpu, and return the folder that has it."""
    sys.path.append(LIBTPU)
    yield LIBTPU
    sys.path.remove(LIBTPU)


@pytest.fixture(scope="module")
def quickly(libtpu):
    """Let the compiler of this process give the least effort, and keep no program: they load onto devices.

    JAX asks once in a process whether it keeps programs. Without the resets a process that began with these tests kept
    none of all that came after.
    """
    changed = {**LEAST_EFFORT, "jax_enable_compilation_cache": False}
    before = {name: getattr(jax.config, name) for name in changed}
    for name, value in changed.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def least_effort() -> dict[str, str]:
    """The same for another process: variables of its environment."""
    return {name.upper(): str(value) for name, value in LEAST_EFFORT.items()}


@pytest.fixture(scope="session")
def bytes_once():
    """Return a program's bytes with each loop turning once, as in XLA's own sum."""

    def count(text: str) -> float:
        module, entry = hlo_text.parse(text)
        return sum(hbm.moved(module, where, one) for where, one, _, fused in hlo_text.runs(module, entry) if not fused)

    return count
