"""What a method costs: seconds cold and warm, passes through the model, memory.

Cold is a first call with every compiled program forgotten and the folder of compiled programs out
of reach, so it is what a user of a fresh machine waits for. Warm is the next call. Memory is how
far use rose in the cold call above what it was before, the compiler's own on a CPU included: of the
accelerator where it keeps count, else of this process (Linux). Passes are counted from the
methods' definitions.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from circuits_jax.circuit import Scores
from circuits_jax.models.config import DecoderConfig


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one method on one task; NaN where it was not measured or is not known.

    Attributes:
        seconds_cold, seconds_warm: wall time of the first call, and of the next one.
        forward, backward: passes of the whole model over the B prompts of one side.
        megabytes: memory beyond model and prompts, in units of 10^6 bytes.
    """

    seconds_cold: float
    seconds_warm: float
    forward: float
    backward: float
    megabytes: float


def measured(
    call: Callable[[], Scores], passes: tuple[float | int, float | int], warm_limit: float | int
) -> tuple[Scores, Cost]:
    """Run a method cold, and warm where the first call took less than `warm_limit` seconds."""
    with _uncompiled():
        scores, cold, megabytes = _timed(call)
    warm = math.nan
    if cold < warm_limit:
        scores, warm, _ = _timed(call)
    return scores, Cost(cold, warm, *map(float, passes), megabytes)


def _timed(call: Callable[[], Scores]) -> tuple[Scores, float, float]:
    before = _memory(reset=True)
    start = time.perf_counter()
    scores = jax.block_until_ready(call())
    seconds = time.perf_counter() - start
    return scores, seconds, (_memory() - before) / 1e6


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """Nothing compiled is known here, in this process or in the folder of compiled programs."""
    enabled = jax.config.jax_enable_compilation_cache
    jax.clear_caches()
    _switch_cache(False)
    try:
        yield
    finally:
        _switch_cache(enabled)


def _switch_cache(enabled: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", enabled)
    compilation_cache.reset_cache()  # whether there is one is asked only once otherwise


def _memory(reset: bool = False) -> float:
    """Bytes in use where `reset`, and from then on their peak; NaN where nobody counts."""
    counted = [device.memory_stats() for device in jax.local_devices()]
    if all(counted):
        return float(sum(c["bytes_in_use" if reset else "peak_bytes_in_use"] for c in counted))
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        status = Path("/proc/self/status").read_text()
    except OSError:
        return math.nan
    field = "VmRSS" if reset else "VmHWM"
    line = next(line for line in status.splitlines() if line.startswith(field))
    return float(line.split()[1]) * 1024


def passes(method: str, options: Any, config: DecoderConfig) -> tuple[float, float]:
    """Forward and backward passes over the B positive, or B negative, prompts; NaN if unknown."""
    count = _PASSES.get(method, lambda options, config: (math.nan, math.nan))
    forward, backward = count(options, config)
    return float(forward), float(backward)


def _from_each_head_up(config: DecoderConfig) -> float:
    """Passes for all heads, one after the other, each from its own layer up."""
    return config.n_heads * (config.n_layers + 1) / 2


def _eap_ig(options, config):
    lines = {"inputs": 1, "activations": 2 * config.n_layers + 1}[options.variant]
    return 2 + lines * options.steps, lines * options.steps


_PASSES: Mapping[str, Callable[[Any, DecoderConfig], tuple[float | int, float | int]]] = {
    # What is read counts as a pass; all three are shorter where a pair's prompts begin alike.
    "sae_codes": lambda options, config: (3 if options.position == "peak" else 2, 0),
    "sae_codes_published": lambda options, config: (2, 0),
    "mean_difference": lambda options, config: (2, 0),
    "random": lambda options, config: (0, 0),
    "exact_patching": lambda options, config: (2 + _from_each_head_up(config), 0),
    "attribution": lambda options, config: (1 + options.steps, options.steps),
    "attribution_ig": lambda options, config: (1 + options.steps, options.steps),
    "eap": lambda options, config: (3, 1),
    "relp": lambda options, config: (3, 1),
    "eap_ig": _eap_ig,
    "acdc": lambda options, config: (
        2 + len(options.thresholds) * _from_each_head_up(config)
        if options.edges == "product"
        else math.nan,  # how many edges are tested depends on what was pruned before
        0,
    ),
    "cdt": lambda options, config: (2 + config.n_layers * config.n_heads, 0),
    "hisp": lambda options, config: (1 + (options.replacement != "zero"), 1),
    "subnetwork_probing": lambda options, config: (
        2 + options.steps * options.n_seeds,
        options.steps * options.n_seeds,
    ),
}
