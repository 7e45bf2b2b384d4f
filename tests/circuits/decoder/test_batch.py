"""Batches of prompts, and of prompts with several continuations in one row."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from circuits_jax.decoder.batch import ContinuedBatch, TokenBatch
from tests.circuits.decoder.test_decoder import GPT2, LLAMA, last_logits, params_of


@settings(deadline=None)
@given(mask=arrays(bool, (4, 9)))
def test_positions_distances_and_last_of_any_prompt(mask):
    mask[:, 4] |= ~mask.any(axis=1)  # at least one token
    batch = TokenBatch(jnp.zeros(mask.shape, jnp.int32), jnp.asarray(mask))
    last, positions, distance = map(np.asarray, (batch.last, batch.positions, batch.distance))
    for row, real in enumerate(mask):
        columns, places = np.flatnonzero(real), np.arange(real.sum())
        assert last[row] == columns[-1]
        np.testing.assert_array_equal(positions[row][real], places)
        between = distance[row][np.ix_(columns, columns)]
        np.testing.assert_array_equal(between, places[:, None] - places[None, :])


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_continuations_in_one_row_compute_what_rows_of_their_own_do(config, side):
    """And the prompt computes the same as without them."""
    params = params_of(config)
    prompts, ends = ([3, 1, 4, 1, 5], [9, 2]), ([[7, 8, 6], [2, 2]], [[5, 3], [4]])
    tokens, mask = np.zeros((2, 6), int), np.zeros((2, 6), bool)
    for row, prompt in enumerate(prompts):
        at = slice(6 - len(prompt), 6) if side == "left" else slice(len(prompt))
        tokens[row, at], mask[row, at] = prompt, True
    rows = [[(t, n) for n, one in enumerate(row, start=1) for t in one] for row in ends]
    after = np.zeros((2, 2, 6), int)
    for row, parts in enumerate(rows):
        after[:, row, : len(parts)] = np.transpose(parts)
    batch = ContinuedBatch(
        jnp.asarray(np.concatenate([tokens, after[0]], axis=1)),
        jnp.asarray(np.concatenate([mask, after[1] > 0], axis=1)),
        jnp.asarray(np.concatenate([np.zeros_like(tokens), after[1]], axis=1)),
        n_after=6,
    )
    found = last_logits(config, params, batch)
    assert found.shape == (2, 7, config.vocab_size)
    texts = [
        [prompt] + [[*prompt, *one[:n]] for one in ends[row] for n in range(1, len(one) + 1)]
        for row, prompt in enumerate(prompts)
    ]
    alone, mask = np.zeros((2, 7, 8), int), np.zeros((2, 7, 8), bool)  # a row each, padded
    for row, column in ((r, c) for r in range(2) for c in range(len(texts[r]))):
        text = texts[row][column]
        alone[row, column, -len(text) :], mask[row, column, -len(text) :] = text, True
    rows = TokenBatch(jnp.asarray(alone.reshape(14, 8)), jnp.asarray(mask.reshape(14, 8)))
    wanted = last_logits(config, params, rows).reshape(found.shape)
    there = mask.any(-1)
    assert there.sum() == 10
    np.testing.assert_allclose(found[there], wanted[there], rtol=1e-4, atol=1e-5)
