"""Settings and fixtures of all tests: the compiler, the program cache, small experiments, the data folder."""

import functools
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import ml_collections
import pytest
from flax.core.scope import Scope
from jax._src.interpreters import mlir

from configs import common
from configs import shapes as shapes_config
from tests import runs

ROOT = Path(__file__).resolve().parents[1]

# The suite spends most of its time on compiling programs that run for a moment. With the least effort and the older
# code generators that takes half as long; without parallel code generation (the cores are busy) test_objective and
# test_layers take 8 % less. The flags must be set before the first program, and hold for programs that tests start.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
if jax.__version_info__ < (0, 12):  # later ones have no older generators, and a flag that XLA does not know ends Python
    QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"

# The programs hardly change from one run of the suite to the next, so they are cached. The tests' own processes run
# thousands of single operations; caching those too would take up to a tenth of their time.
CACHE = {
    "jax_compilation_cache_dir": str(ROOT / ".pytest_cache" / "jax"),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    # Caches inside XLA (for GPUs) would put the folder's path into the key of every program, and a run's folder is new
    # in every session.
    "jax_persistent_cache_enable_xla_caches": "none",
    # Nobody reads in which line an operation of a compiled program began.
    "jax_traceback_in_locations_limit": 0,
    # No test may pass because an array of fewer axes was broadcast by accident.
    "jax_numpy_rank_promotion": "raise",
}
for _name, _value in CACHE.items():
    jax.config.update(_name, _value)
    os.environ[_name.upper()] = str(_value)  # for the programs that tests start
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# JAX makes an MLIR context for every program, which takes six times as long as to lower a single operation. One for all
# takes a third off tests that run operations one by one (56 -> 38 s of processor time for three of test_gradients).
mlir.make_ir_context = functools.cache(mlir.make_ir_context)

# Flax compares the shape of every parameter with its initialiser's whenever a module is applied, and traces the
# initialiser for it. To trace each once takes a third off a model that is applied op by op.
_checked_param = Scope.param


@functools.lru_cache(maxsize=4096)
def _shape(init: Callable, *arguments: object) -> tuple[int, ...]:
    return jax.eval_shape(lambda: init(jax.random.key(0), *arguments)).shape


def _param(scope: Scope, name: str, init: Callable, *arguments: object, unbox: bool = True) -> jax.Array:
    """Return a parameter that has its initialiser's shape; Flax makes a new one and names a wrong one."""
    hashable = (tuple(each) if isinstance(each, list) else each for each in arguments)
    if not scope.has_variable("params", name) or scope.get_variable("params", name).shape != _shape(init, *hashable):
        return _checked_param(scope, name, init, *arguments, unbox=unbox)
    scope.reserve(name, "params")
    return scope.get_variable("params", name)


Scope.param = _param

# Tracing makes millions of objects and hardly a cycle, and a garbage collection visits all that live: collect seldom.
gc.set_threshold(100_000, 50, 100)


def pytest_sessionfinish() -> None:
    """Leave everything out of the last collections: pytest collects five times and Python once more, for 26 s."""
    gc.freeze()


# The files that take minutes run first, so that no process waits long for another at the end (with
# --no-loadscope-reorder).
LONG = ("test_planner", "test_drills", "test_disk", "test_distributed", "test_objective", "test_bad_numbers",
        "test_train", "test_gradients", "test_train_caption", "test_train_vqa_generative", "test_types",
        "test_vqav2_learns", "test_sharding")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real data and weights beside the repository. Without it, its tests are skipped."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir() or not (folder / "weights").is_dir():
        pytest.skip("the data and weights of ../shared are absent")
    return folder


@pytest.fixture(scope="session")
def small_shapes(tmp_path_factory) -> Path:
    """Return a data_dir with a small shapes set: 32 training scenes, 16 in each held-out split."""
    return runs.prepare_small_shapes(tmp_path_factory.mktemp("small_shapes"))


@pytest.fixture(scope="session")
def tiny(small_shapes, tmp_path_factory) -> Callable[..., ml_collections.ConfigDict]:
    """Make the config of three stages of four steps each on the small shapes set.

    The first stage trains everything on itc alone, the second the parameters above the cached states, the third
    everything. The towers have width 32 and meet after their first block; with `tiny(depth=2)` block_01 lies above the
    bridge and the second stage trains it too. A run of one block takes a quarter less time.
    """
    cache_dir = tmp_path_factory.mktemp("cache")
    programs = ROOT / ".pytest_cache" / "jax"  # a run keeps its programs in cache_dir/xla: link that to the suite's
    programs.mkdir(parents=True, exist_ok=True)
    (cache_dir / "xla").symlink_to(programs)

    def make(depth: int = 1) -> ml_collections.ConfigDict:
        config = shapes_config.get_config()
        small = dict(depth=depth, width=32, heads=2, mlp_width=64)
        config.vision.update(small | dict(patch_px=16, image_px=32, position_grid=2, dropout=0.1))
        config.text.update(small | dict(length=16, vocab_size=64, max_positions=16, dropout=0.1))
        config.bridge.update(placement="middle", layers=1, shared_width=32, heads=2, embed_width=16)
        config.data.update(data_dir=str(small_shapes), crop_area=(0.5, 1.0), threads=2, prefetch_batches=2)
        everything, quick = common.EVERYTHING, dict(steps=4, batch_size=8, learning_rate=1e-3)
        config.stages = dict(
            stabilise=common.stage(**quick, losses=("itc",), train=everything),
            align=common.stage(**quick, group_examples=2, top_blocks=depth - 1, cached_crops=2),
            task=common.stage(**quick, group_examples=2, train=everything),
        )
        config.stage_order = ("stabilise", "align", "task")
        config.evals.retrieval.update(
            every_steps=2,
            batch_size=16,
            select_images=0,
            splits=("val",),
            rerank_top_k=4,
            fit_rerank_weight=True,
            bootstrap_samples=20,
            folds=1,
        )
        config.checkpoint.update(every_steps=3, keep_last=2)
        config.mining.update(group=0, partners=2)
        config.log_every_steps = 1
        config.cache_dir = str(cache_dir)
        return config

    return make


@pytest.fixture(scope="session")
def tiny_vqa(tiny) -> Callable[[], ml_collections.ConfigDict]:
    """Make the tiny config of two stages, the second on questions."""

    def make() -> ml_collections.ConfigDict:
        config = tiny()
        config.losses.vqa = shapes_config.get_config("task=vqa").losses.vqa
        config.evals.retrieval.splits = ()
        config.evals.vqa = common.asking(every_steps=2, batch_size=16, splits=("val",), bootstrap_samples=20)
        quick = dict(steps=4, batch_size=8, learning_rate=1e-3)
        config.stages.task = common.stage(**quick, losses=("vqa",), train=common.EVERYTHING)
        config.stage_order = ("stabilise", "task")
        return config

    return make


@pytest.fixture(scope="session")
def tiny_vqa_generative(tiny_vqa) -> Callable[[], ml_collections.ConfigDict]:
    """Make the tiny config of two stages; in the second a decoder answers questions."""

    def make() -> ml_collections.ConfigDict:
        config = tiny_vqa()
        common.decoder(config, "tiny", layers=1, width=32, heads=2, mlp_width=64)
        del config.losses.vqa
        config.losses.vqa_generative = dict(weight=1.0)
        config.stages.task.losses = ("vqa_generative",)
        return config

    return make


@pytest.fixture(scope="session")
def tiny_caption(tiny) -> Callable[[], ml_collections.ConfigDict]:
    """Make the tiny config of two stages; the second trains a decoder on cached states."""

    def make() -> ml_collections.ConfigDict:
        config = tiny()
        common.caption_decoder(config, "tiny", layers=1, width=16, heads=2, mlp_width=24)
        config.evals.retrieval.splits = ()
        config.evals.caption.update(every_steps=2, batch_size=8, splits=("val",), bootstrap_samples=20, beams=2)
        quick = dict(steps=4, batch_size=8, learning_rate=1e-2, cached_crops=1)
        config.stages.task = common.stage(**quick, losses=("caption",), train=common.DECODER)
        config.stage_order = ("stabilise", "task")
        return config

    return make


@pytest.fixture(scope="session")
def tiny_nlvr2(tiny) -> Callable[[], ml_collections.ConfigDict]:
    """Make the tiny config of two stages, the second on statements about two pictures."""

    def make() -> ml_collections.ConfigDict:
        config = tiny()
        config.losses.nlvr2 = shapes_config.get_config("task=nlvr2").losses.nlvr2
        config.evals.retrieval.splits = ()
        config.evals.nlvr2 = common.asking(every_steps=2, batch_size=16, splits=("val",), bootstrap_samples=20)
        quick = dict(steps=4, batch_size=8, learning_rate=1e-3)
        config.stages.task = common.stage(**quick, losses=("nlvr2",), train=common.EVERYTHING)
        config.stage_order = ("stabilise", "task")
        return config

    return make


@pytest.fixture(scope="module")
def whole(cfg, tmp_path_factory) -> tuple[Path, dict]:
    """Run the module's own `cfg` without a stop. Return the workdir and the result."""
    return runs.whole(cfg, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="session")
def tiny_flags(tiny) -> list[str]:
    """Return the flags that turn configs/shapes.py into the tiny experiment."""

    def flags(settings: dict, section: str) -> Iterator[str]:
        for key, value in settings.items():
            if isinstance(value, dict):
                yield from flags(value, f"{section}.{key}")
            else:
                yield f"{section}.{key}={value}"

    return ["--config=configs/shapes.py", *flags(tiny().to_dict(), "--config")]


@pytest.fixture
def keep_compilation_cache() -> Iterator[None]:
    """Restore the suite's compilation cache after the test: a run sets its own."""
    folder = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", folder)
