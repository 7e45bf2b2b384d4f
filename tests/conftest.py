"""Every test runs on two CPU devices, with implicit rank promotion an error.

Programs are compiled without LLVM's costly passes and by the older emitters of loops, a third of
the time of the newer ones, which most of the tests' time went into; what XLA does to a program
(fusions, buffers, dtypes) stays. Large ones are compiled once for all workers and for the commands
that tests start, and forgotten when the run ends; to keep a small one would take longer than to
compile it again. Programs do not say which line they come from.
"""

import functools
import gc
import os
import shutil
import tempfile
import threading

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=2"
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
WORKER = "PYTEST_XDIST_WORKER" in os.environ
if not WORKER:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402
import pytest  # noqa: E402
from jax._src.interpreters import mlir  # noqa: E402

import tests.checked  # noqa: E402, F401 - what pyproject.toml names

jax.config.update("jax_numpy_rank_promotion", "raise")
# A thread's programs of a file share a context: to make one for each is half of its lowering.
_make_context = mlir.make_ir_context
context_of = functools.cache(lambda thread: _make_context())
mlir.make_ir_context = lambda: context_of(threading.get_ident())

# Files that take longest, by their ends: they are begun first, so that no worker waits for one.
LONGEST = (
    "foveation/test_pipeline.py",
    "circuits/test_command.py",
    "foveation/test_command.py",
    "accelerators/test_processes.py",
    "circuits/test_notebook.py",
    "methods/test_features.py",
    "transforms/test_disarray.py",
    "lm/test_families.py",
    "methods/test_metrics.py",
    "transforms/test_texture.py",
)


def pytest_collection_modifyitems(items):
    def place(item):
        named = (at for at, name in enumerate(LONGEST) if item.path.match(name))
        return next(named, len(LONGEST))

    items.sort(key=place)


def pytest_collection_finish(session):
    """What is there before the first test stays: the collector of garbage need not go through it.

    Nor as often through what tracing makes: a tenth of the time of tests that compile much.
    """
    del session
    gc.freeze()
    gc.set_threshold(50_000)


@pytest.fixture(autouse=True, scope="module")
def _programs_go_with_their_file():
    """A worker that keeps the programs of all files runs out of memory maps, and dies.

    Long before that it is slower for keeping them: lowering waits for the collector of garbage.
    """
    yield
    jax.clear_caches()
    context_of.cache_clear()


def pytest_unconfigure():
    if not WORKER:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
