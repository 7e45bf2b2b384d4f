"""Counts of codes and of code pairs against plain Python with sets, and their memory."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from circuits_jax.codes import codes

SCORES = {
    name: jax.jit(getattr(codes, name))
    for name in ("unique", "unique_fraction", "unique_pairs", "evidence", "evidence_pairs")
}
SHAPES = ((1, 1, 2), (4, 3, 3), (5, 2, 1))  # B, B2, G; few, since each is compiled
PAIRED = ((1, 1, 2), (4, 4, 3))


@st.composite
def coded(draw, shapes=SHAPES):
    """Codes of positive and of negative prompts, and strengths of the positives' codes."""
    b, b2, g = draw(st.sampled_from(shapes))
    n_codes = draw(st.integers(1, 4))
    code = st.integers(0, n_codes)  # the last is "no code is active"
    positive, negative = (draw(arrays(np.int32, (n, g), elements=code)) for n in (b, b2))
    strength = draw(arrays(np.float32, (b, g), elements=st.floats(0, 3, width=32)))
    return positive, negative, np.where(positive < n_codes, strength, 0)


def check(examples=40):
    return settings(max_examples=examples, deadline=None)


@check()
@given(coded())
def test_unique_counts_set_differences(case):
    positive, negative, _ = case
    wanted = [len(set(p) - set(n)) for p, n in zip(positive.T, negative.T, strict=True)]
    assert SCORES["unique"](positive, negative).tolist() == wanted


@check()
@given(coded())
def test_unique_fraction_divides_by_the_codes_seen(case):
    positive, negative, _ = case
    wanted = [
        len(set(p) - set(n)) / len(set(p) | set(n))
        for p, n in zip(positive.T, negative.T, strict=True)
    ]
    found = SCORES["unique_fraction"](positive, negative)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert ((found >= 0) & (found <= 1)).all()


@check()
@given(coded())
def test_unique_pairs_counts_set_differences_of_pairs(case):
    positive, negative, _ = case
    heads = range(positive.shape[1])
    seen = {
        (g, h): set(zip(negative[:, g], negative[:, h], strict=True)) for g in heads for h in heads
    }
    wanted = [
        [len(set(zip(positive[:, g], positive[:, h], strict=True)) - seen[g, h]) for h in heads]
        for g in heads
    ]
    found = SCORES["unique_pairs"](positive, negative)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_array_equal(jnp.diag(found), SCORES["unique"](positive, negative))


@check()
@given(coded(PAIRED))
def test_evidence_sums_what_codes_say_that_the_pairs_negative_lacks(case):
    positive, negative, strength = case
    b, n_heads = positive.shape
    wanted, together = np.zeros(n_heads), np.zeros((n_heads, n_heads))
    for i in range(b):
        for g in range(n_heads):
            wanted[g] += strength[i, g] * (positive[i, g] != negative[i, g]) / b
            for h in range(n_heads):
                is_new = (positive[i, g], positive[i, h]) != (negative[i, g], negative[i, h])
                together[g, h] += is_new * np.sqrt(strength[i, g] * strength[i, h]) / b
    found = SCORES["evidence"](positive, negative, strength)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    pairs = SCORES["evidence_pairs"](positive, negative, strength)
    np.testing.assert_allclose(pairs, together, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jnp.diag(pairs), found, rtol=1e-4, atol=1e-5)


@check(20)
@given(coded(SHAPES[1:2]))
def test_the_order_of_prompts_and_the_names_of_codes_do_not_matter(case):
    positive, negative, _ = case
    names = np.random.default_rng(0).permutation(5)
    shuffled = np.random.default_rng(1).permutation(len(positive))
    for score in ("unique", "unique_fraction", "unique_pairs"):
        np.testing.assert_allclose(
            SCORES[score](names[positive][shuffled], names[negative][::-1]),
            SCORES[score](positive, negative),
        )


@check(20)
@given(coded(PAIRED[1:]))
def test_of_evidence_neither_do_the_order_of_pairs_and_the_names_of_codes(case):
    positive, negative, strength = case
    names = np.random.default_rng(0).permutation(5)
    shuffled = np.random.default_rng(1).permutation(len(positive))
    for score in ("evidence", "evidence_pairs"):
        np.testing.assert_allclose(
            SCORES[score](names[positive][shuffled], names[negative][shuffled], strength[shuffled]),
            SCORES[score](positive, negative, strength),
            rtol=1e-4,
            atol=1e-5,
        )


def test_equal_codes_are_no_evidence_and_foreign_ones_all_of_it():
    positive = jnp.array([[0, 1], [2, 1], [0, 3]])
    strength = jnp.ones((3, 2))
    assert SCORES["unique"](positive, positive).tolist() == [0, 0]
    assert SCORES["evidence"](positive, positive, strength).tolist() == [0, 0]
    assert not SCORES["unique_pairs"](positive, positive).any()
    foreign = positive + 10
    assert SCORES["unique"](positive, foreign).tolist() == [2, 2]
    assert SCORES["unique_fraction"](positive, foreign).tolist() == [0.5, 0.5]
    assert SCORES["unique_pairs"](positive, foreign).tolist() == [[2, 3], [3, 2]]
    assert SCORES["evidence"](positive, foreign, strength).tolist() == [1, 1]


def test_a_pair_can_be_new_where_neither_code_is():
    positive, negative = jnp.array([[0, 1]]), jnp.array([[0, 0], [1, 1]])
    assert SCORES["unique"](positive, negative).tolist() == [0, 0]
    assert SCORES["unique_pairs"](positive, negative).tolist() == [[0, 1], [1, 0]]


def test_directed_runs_from_earlier_to_later_layers():
    n_layers, n_heads = 3, 2
    found = codes.directed(jnp.ones((6, 6)), (n_layers, n_heads))
    layer = np.repeat(np.arange(3), 2)
    np.testing.assert_array_equal(found, layer[:, None] < layer[None, :])
    assert not np.tril(found).any()
    assert found.sum() == 3 * n_heads**2


def test_endpoint_counts():
    edges = jnp.zeros((4, 4)).at[0, 3].set(5.0).at[1, 3].set(4.0).at[0, 2].set(3.0)
    assert codes.endpoint_counts(edges, 1).tolist() == [1, 0, 0, 1]
    assert codes.endpoint_counts(edges, 2).tolist() == [1, 1, 0, 2]
    assert codes.endpoint_counts(edges, 3).tolist() == [2, 1, 1, 2]


def test_pairs_of_1200_heads_stay_below_500_megabytes():
    """GPT-2 XL's heads, 500 prompts of each kind: nothing grows with codes, G^2 has few copies."""
    shape = jax.ShapeDtypeStruct((500, 1200), jnp.int32)
    strength = jax.ShapeDtypeStruct((500, 1200), jnp.float32)
    for score, given_arrays in (
        ("unique_pairs", (shape, shape)),
        ("evidence_pairs", (shape, shape, strength)),
    ):
        memory = SCORES[score].lower(*given_arrays).compile().memory_analysis()
        held = memory.temp_size_in_bytes + memory.output_size_in_bytes
        assert 1200**2 * 4 <= held < 100e6
        assert held + memory.argument_size_in_bytes < 500e6
