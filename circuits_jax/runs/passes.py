"""Passes through the model, counted where they happen: every run of a layer reports itself.

A layer that is run over some tokens reports them where its config is `counted`; so does the way
back through it. Reports come from the running program, so loops, batches and what depends on data
count as often as they are run. Models that are not counted are compiled without any of this.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
from jaxtyping import Array, Float


@dataclasses.dataclass
class Tally:
    """Tokens that went through layers, each as often as it did, forward and backward."""

    forward: float = 0.0
    backward: float = 0.0


_tallies: list[Tally] = []
_shares: list[float] = [1.0]


@contextlib.contextmanager
def tally() -> Iterator[Tally]:
    """Count what is run meanwhile, of models whose config is counted."""
    found = Tally()
    _tallies.append(found)
    try:
        yield found
        jax.effects_barrier()
    finally:
        _tallies.remove(found)


@contextlib.contextmanager
def share(fraction: float) -> Iterator[None]:
    """What is traced meanwhile counts as this share: the rest fills devices up."""
    _shares.append(_shares[-1] * fraction)
    try:
        yield
    finally:
        _shares.pop()


def layer_run(config: Any, x: Float[Array, "*B T D"]) -> Float[Array, "*B T D"]:
    """x, what a layer gave; its tokens are reported when it has been run, if the config says so."""
    return _reported(x, x.size / x.shape[-1] * _shares[-1]) if config.counted else x


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _reported(x: Array, tokens: float) -> Array:
    _report("forward", x, tokens)
    return x


def _there(x: Array, tokens: float) -> tuple[Array, None]:
    return _reported(x, tokens), None


def _and_back(tokens: float, kept: None, gradient: Array) -> tuple[Array]:
    del kept
    _report("backward", gradient, tokens)
    return (gradient,)


_reported.defvjp(_there, _and_back)


def _report(direction: str, x: Array, tokens: float) -> None:
    """Once for every item of a batch that `vmap` makes, as x is then one for each."""

    def add(_) -> None:
        for found in _tallies:
            setattr(found, direction, getattr(found, direction) + tokens)

    jax.debug.callback(add, x[(0,) * x.ndim])
