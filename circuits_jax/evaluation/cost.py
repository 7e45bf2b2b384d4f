"""What a method costs: seconds cold and warm, passes through the model, memory.

Cold is a first call with every compiled program forgotten and the folder of compiled programs out
of reach, so it is what a user of a fresh machine waits for. Warm is the next call. Memory is how
far use rose in the cold call above what it was before, the compiler's own on a CPU included: of the
accelerator where it keeps count, else of this process (Linux). An accelerator's peak is of its
whole life: where the call did not raise it, what the call took is not known. Passes are counted as
they are run (`runs/passes.py`).
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from circuits_jax.circuits.circuit import Scores
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.methods import method_of
from circuits_jax.runs.errors import InputError
from circuits_jax.runs.passes import tally
from circuits_jax.tasks import Task


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
    return scores, Cost(cold, warm, float(passes[0]), float(passes[1]), megabytes)


def summed(costs: Sequence[Cost]) -> Cost:
    """Of methods run one after the other: memory is that of the one that takes most."""
    fields = [dataclasses.asdict(one) for one in costs]
    total = {name: sum(one[name] for one in fields) for name in fields[0]}
    return Cost(**total | {"megabytes": float(np.max([one.megabytes for one in costs]))})


def _timed(call: Callable[[], Scores]) -> tuple[Scores, float, float]:
    before = _memory(reset=True)
    start = time.perf_counter()
    scores = jax.block_until_ready(call())
    seconds = time.perf_counter() - start
    return scores, seconds, risen(before, _memory()) / 1e6


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


def _memory(reset: bool = False) -> tuple[float, float]:
    """Bytes in use, and their peak: since the last `reset` where that can be, else of all time."""
    counted = [device.memory_stats() for device in jax.local_devices()]
    if all(counted):
        names = ("bytes_in_use", "peak_bytes_in_use")
        in_use, peak = (float(sum(stats[name] for stats in counted)) for name in names)
        return in_use, peak
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        status = Path("/proc/self/status").read_text()
    except OSError:
        return math.nan, math.nan
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    in_use, peak = (float(lines[field].split()[0]) * 1024 for field in ("VmRSS", "VmHWM"))
    return in_use, in_use if reset else peak


def risen(before: tuple[float, float], after: tuple[float, float]) -> float:
    """How far use rose in between, in bytes: NaN where an earlier peak hides it.

    Args:
        before: bytes in use and their peak.
        after: the same, later. Accelerators never forget their peak, so that what a call took is
            known only where it took more than all before it.
    """
    hidden = before[1] > before[0] and after[1] <= before[1]
    return math.nan if hidden else after[1] - before[0]


def passes(method: str, options: Any, model: LanguageModel, task: Task) -> tuple[float, float]:
    """Forward and backward passes over the B positive, or B negative, prompts, as they are run.

    Counted on the first pair alone, in a call that is not timed, over the tokens of a prompt and
    the layers of the model: half of the layers, or of the tokens, is half a pass. What methods do
    besides whole layers, such as attention once more, is not counted. Padding that fills up devices
    is not either. NaN where the method refuses a single pair.
    """
    counted = dataclasses.replace(model, config=dataclasses.replace(model.config, counted=True))
    learn = task.learn[:1]
    with tally() as found:
        try:
            scores = method_of(method).run(
                counted, dataclasses.replace(task, learn=learn), jax.random.key(0), options
            )
        except InputError:
            return math.nan, math.nan
        jax.block_until_ready(scores)
    length = model.tokenize([*learn.positives, *learn.negatives]).tokens.shape[1]
    whole = model.config.n_layers * length
    return found.forward / whole, found.backward / whole
