"""Every test runs on two CPU devices, with implicit rank promotion an error.

Programs are compiled without LLVM's costly passes and by the older emitters of loops, a third of
the time of the newer ones, which most of the tests' time went into; what XLA does to a program
(fusions, buffers, dtypes) stays. Each is compiled once for all workers and
for the commands that tests start, and forgotten when the run ends.
"""

import os
import shutil
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=2"
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
WORKER = "PYTEST_XDIST_WORKER" in os.environ
if not WORKER:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
MAPS = 20_000  # of 65,530 that a process has by default; no file adds half of them


@pytest.fixture(autouse=True, scope="module")
def _programs_go_before_memory_maps_do():
    """Files share programs; a worker that keeps them all runs out of memory maps, and dies."""
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > MAPS:
        jax.clear_caches()


def pytest_unconfigure():
    if not WORKER:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
