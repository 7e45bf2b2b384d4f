"""Two prompts in one row say what each says alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits_jax.capture.forked import fork
from circuits_jax.decoder.decoder import Decoder, TokenBatch
from tests.circuits.decoder.test_decoder import CONFIGS, LLAMA, close, params_of

T = 12
CONFIGS = CONFIGS | {"both ways": dataclasses.replace(LLAMA, causal=False)}


def prompts(seed, alike, shorter):
    """Three pairs in T columns, of which the first `alike` are the same.

    One pair is shorter in both prompts, and one in the second, in the middle if it begins alike.
    """
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 23, (2, 3, T))
    tokens[1, :, :alike] = tokens[0, :, :alike]
    mask = np.ones((2, 3, T), bool)
    mask[:, 0, : min(shorter, alike)] = False
    mask[1, 1, alike : min(alike + shorter, T - 1)] = False
    return [TokenBatch(jnp.asarray(tokens[i], jnp.int32), jnp.asarray(mask[i])) for i in (0, 1)]


def forked_of(sides, multiple=1):
    return fork(jax.tree.map(lambda *xs: jnp.concatenate(xs), *sides), multiple)


@functools.partial(jax.jit, static_argnames="config")
def logits_of(config, params, batch):
    return Decoder(config).apply({"params": params}, batch)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), alike=st.sampled_from([0, 5, 11]), shorter=st.integers(0, 4))
def test_a_forked_row_gives_the_logits_of_both_prompts(config, seed, alike, shorter):
    sides = prompts(seed, alike, shorter)
    forked = forked_of(sides, 1 if config.causal else T)
    both = logits_of(config, params_of(config), forked)
    for logits, alone in zip((both[:, :T], forked.second(both)), sides, strict=True):
        wanted = np.asarray(logits_of(config, params_of(config), alone))
        close(np.asarray(logits)[alone.mask], wanted[alone.mask])


@pytest.mark.parametrize(("alike", "multiple", "n"), [(7, 1, 5), (7, 4, 8), (0, 5, 12), (12, 4, 4)])
def test_the_ending_begins_where_prompts_differ(alike, multiple, n):
    first, second = prompts(0, alike, 0)
    tokens = second.tokens.at[:, alike : alike + 1].set(first.tokens[:, alike : alike + 1] + 1)
    second = second.replace(tokens=tokens)
    forked = forked_of((first, second), multiple)
    assert forked.n_ending == n
    np.testing.assert_array_equal(forked.first.tokens, first.tokens)
    np.testing.assert_array_equal(forked.second(forked.tokens), second.tokens)
    np.testing.assert_array_equal(forked.endings(forked.tokens)[1], second.tokens[:, -n:])


def test_positions_are_those_of_each_prompt():
    """Padding on the left or in the middle of one prompt only, on the left of both, and none."""
    for alike, shorter in ((0, 4), (5, 3)):
        sides = prompts(1, alike, shorter)
        forked = forked_of(sides)
        for found, side in zip(
            (forked.positions[:, :T], forked.second(forked.positions)), sides, strict=True
        ):
            np.testing.assert_array_equal(found, side.positions)
