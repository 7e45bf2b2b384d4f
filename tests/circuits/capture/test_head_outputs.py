"""Head outputs: positions agree with one another; batches and padding change nothing."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax.capture.head_outputs import (
    check_finite,
    head_outputs,
    read_outputs,
    token_weights,
)
from circuits_jax.lm.alignment import aligned_columns
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import PromptPairs
from tests.circuits import tiny

L, H, D = 3, 4, 16
PROMPTS = (
    "Ann and Bob",
    "when Cid and Dee went out then Dee gave it to",
    "Eve",
    "when Fay gave it to Gus",
)
LENGTHS = (3, 11, 1, 6)


@pytest.fixture(scope="module")
def model():
    return tiny.model()


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5 * np.abs(want).max())


@pytest.mark.parametrize("relative", [False, True])
def test_last_and_mean_are_read_off_all(model, relative):
    every = np.asarray(head_outputs(model, PROMPTS, "all", relative=relative))
    last = head_outputs(model, PROMPTS, "last", relative=relative)
    mean = head_outputs(model, PROMPTS, relative=relative)
    assert every.shape == (4, 12, L, H, D)
    assert last.shape == mean.shape == (4, L, H, D)
    assert last.dtype == mean.dtype == np.float32
    for index, length in enumerate(LENGTHS):
        assert not every[index, length:].any()  # padding
        close(last[index], every[index, length - 1])
        close(mean[index], every[index, :length].mean(0))


def test_relative_divides_by_the_residual_stream(model):
    """In the first layer the stream is the embedding of the token."""
    plain, relative = (
        np.asarray(head_outputs(model, PROMPTS, "last", relative=r)) for r in (False, True)
    )
    last_words = [prompt.split()[-1] for prompt in PROMPTS]
    rows = np.asarray(model.params["embedding"])[[tiny.WORDS.index(word) for word in last_words]]
    scale = np.sqrt(np.mean(rows**2, axis=1))
    close(relative[:, 0] * scale[:, None, None], plain[:, 0])
    ratio = plain / relative  # one number a prompt and layer, growing with depth here
    close(ratio, np.broadcast_to(ratio[:, :, :1, :1], ratio.shape))
    assert (ratio[:, 2, 0, 0] > ratio[:, 0, 0, 0]).all()


def test_company_and_order_change_no_prompt(model):
    together = np.asarray(head_outputs(model, PROMPTS))
    order = [2, 0, 3, 1]
    close(head_outputs(model, [PROMPTS[i] for i in order]), together[order])
    for index in (0, 3):  # alone, and so padded to 4 and to 8 tokens instead of 12
        close(head_outputs(model, [PROMPTS[index]]), together[[index]])


@pytest.mark.parametrize("position", ["mean", "all"])
def test_batch_size_changes_nothing(model, position):
    """Three does not divide the four prompts."""
    whole = head_outputs(model, PROMPTS, position)
    for batch_size in (3, 100):
        close(head_outputs(model, PROMPTS, position, batch_size=batch_size), whole)


def test_pooling_before_the_multiplication_is_pooling_after(model):
    """A head's W_O doubled doubles its outputs, and those of its layer's other heads stay."""
    o = model.params["layers"]["attention"]["o"]
    doubled = tiny.with_attention(model, o=o.at[2, 1].mul(2))
    factor = np.ones((L, H))
    factor[2, 1] = 2
    close(head_outputs(doubled, PROMPTS), head_outputs(model, PROMPTS) * factor[None, :, :, None])


NEGATIVES = ("Ann and Cid", "Dee out then Eve gave it to", "Hal", "when Fay gave it to Gus")
PAIRS = PromptPairs(PROMPTS, NEGATIVES, ((9,),) * 4, ((10,),) * 4)


def test_movement_alone_peaks_where_the_prompts_of_a_pair_differ_most(model):
    """Pair by pair and head by head, in plain numpy, from outputs at all tokens."""
    positives, negatives = (
        np.asarray(head_outputs(model, prompts, "all", relative=True))
        for prompts in (PROMPTS, NEGATIVES)
    )
    found = np.asarray(read_outputs(model, PAIRS, read_weight=0.0))
    assert found.shape == (4, L, H, D)
    for index, (p, n) in enumerate(zip(PROMPTS, NEGATIVES, strict=True)):
        columns = aligned_columns(*(list(map(tiny.WORDS.index, side.split())) for side in (p, n)))
        _, p, n = np.intersect1d(*columns, return_indices=True)  # tokens that share a column
        moved = positives[index, p] - negatives[index, n]
        peak = np.linalg.norm(moved, axis=-1).argmax(axis=0)
        for layer in range(L):
            for head in range(H):
                wanted = moved[peak[layer, head], layer, head]
                np.testing.assert_allclose(found[index, layer, head], wanted, rtol=2e-3, atol=2e-4)


def test_length_is_the_geometric_mean_of_flow_and_distance(model):
    """Where both peak at one token, as in a pair with one token in common."""
    pairs = PromptPairs(("Eve",), ("Hal",), ((9,),), ((10,),))
    flow, distance, both = (
        np.linalg.norm(read_outputs(model, pairs, read_weight=a), axis=-1) for a in (1.0, 0.0, 0.3)
    )
    np.testing.assert_allclose(flow.sum(), 1, rtol=1e-3)  # a share of the pair's flow
    np.testing.assert_allclose(both, flow**0.3 * distance**0.7, rtol=1e-3)


def test_read_outputs_do_not_depend_on_the_batch(model):
    def found(pairs, **options):
        return np.asarray(read_outputs(model, pairs, **options))

    def near(got, want):
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3 * np.abs(want).max())

    whole = found(PAIRS)
    assert not whole[3].any()  # equal prompts
    near(found(PAIRS, batch_size=4), whole)  # two pairs, then two
    near(found(PAIRS[:3], batch_size=4), whole[:3])  # two pairs, then one and a copy
    turned = PromptPairs(*(values[:3][::-1] for values in dataclasses.astuple(PAIRS)))
    near(found(turned), whole[[2, 1, 0]])


def test_token_weights(model):
    batch = model.tokenize(PROMPTS)
    for position in ("last", "mean"):
        np.testing.assert_allclose(token_weights(batch, position).sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(token_weights(batch, "all").sum(1), LENGTHS)
    assert not np.asarray(token_weights(batch, "mean"))[~np.asarray(batch.mask)].any()


@pytest.mark.parametrize("position", ["last", "mean", "all"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(model, position, bad):
    """Of what is not finite, the first prompt, layer and head."""
    o = model.params["layers"]["attention"]["o"]
    broken = tiny.with_attention(model, o=o.at[1, 2, 0, 3].set(bad))
    message = r"layer 1 head 2 is not finite on prompt 0 \('Ann and Bob'\)"
    with pytest.raises(InputError, match=message):
        head_outputs(broken, PROMPTS, position)


def test_check_finite_passes_what_is_finite():
    check_finite(jnp.full((1, L, H, D), 1e30), PROMPTS[:1], {})


def test_bad_input(model):
    with pytest.raises(InputError, match="no prompts"):
        head_outputs(model, [])
    with pytest.raises(InputError, match=r"prompt 1 \(''\) has 0 tokens; tiny takes 1 to 24"):
        head_outputs(model, ["Ann", ""])
    with pytest.raises(InputError, match=r"prompt 0 .* has 25 tokens; tiny takes 1 to 24"):
        head_outputs(model, ["Ann " * 25])
    assert head_outputs(model, ["Ann " * 24]).shape == (1, L, H, D)
