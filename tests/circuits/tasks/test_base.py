import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import PromptPairs, Task, answers_beat, metric_values, targets

VOCABULARY = 11
ids = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=4, unique=True).map(tuple)
rows = st.lists(st.tuples(ids, ids), min_size=1, max_size=3)


def make_pairs(rows):
    prompts = tuple(f"prompt {i}" for i in range(len(rows)))
    answers, foils = zip(*rows, strict=True)
    return PromptPairs(prompts, tuple(p + "!" for p in prompts), answers, foils)


def reference(logits, answers, foils, metric):
    """One prompt at a time, in numpy and float64."""
    logits = np.asarray(logits, np.float64)
    if metric == "logit_diff":
        return np.mean(logits[list(answers)]) - np.mean(logits[list(foils)])
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    return probabilities[list(answers)].sum() - probabilities[list(foils)].sum()


@pytest.mark.parametrize("metric", ["logit_diff", "prob_diff"])
@given(rows=rows, seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_metric_is_that_of_numpy(metric, rows, seed):
    logits = np.random.default_rng(seed).normal(0, 5, (len(rows), VOCABULARY))
    values = metric_values(jnp.asarray(logits, jnp.float32), targets(make_pairs(rows)), metric)
    expected = [reference(row, a, f, metric) for row, (a, f) in zip(logits, rows, strict=True)]
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", ["logit_diff", "prob_diff"])
def test_metric_changes_sign_with_the_sides_and_ignores_a_constant(metric):
    pairs = make_pairs([((1,), (2, 3)), ((4, 5, 6), (7,))])
    swapped = dataclasses.replace(pairs, answers=pairs.foils, foils=pairs.answers)
    logits = jax.random.normal(jax.random.key(0), (2, VOCABULARY))
    values = metric_values(logits, targets(pairs), metric)
    np.testing.assert_allclose(metric_values(logits, targets(swapped), metric), -values, rtol=1e-6)
    np.testing.assert_allclose(
        metric_values(logits + 3.0, targets(pairs), metric), values, rtol=1e-4, atol=1e-5
    )


def test_metric_under_jit_vmap_and_grad():
    pairs = make_pairs([((1,), (2, 3)), ((4, 5), (7,))])
    logits = jax.random.normal(jax.random.key(1), (4, 2, VOCABULARY))
    target = targets(pairs)
    plain = jnp.stack([metric_values(row, target, "prob_diff") for row in logits])
    mapped = jax.jit(jax.vmap(lambda x: metric_values(x, target, "prob_diff")))(logits)
    np.testing.assert_allclose(mapped, plain, rtol=1e-6)
    gradient = jax.grad(lambda x: metric_values(x, target, "logit_diff").sum())(logits[0])
    expected = np.zeros((2, VOCABULARY))
    expected[0, [1, 2, 3]] = 1, -0.5, -0.5
    expected[1, [4, 5, 7]] = 0.5, 0.5, -1
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_padding_id_has_no_effect():
    """Id 0 fills the rows up: its logit, even infinite, must not show."""
    target = targets(make_pairs([((1,), (2, 3, 4))]))
    logits = jnp.arange(VOCABULARY, dtype=jnp.float32)[None].at[:, 0].set(-jnp.inf)
    np.testing.assert_allclose(metric_values(logits, target, "logit_diff"), [1.0 - 3.0])


@given(rows=rows)
@settings(max_examples=25, deadline=None)
def test_targets_give_the_lists_back(rows):
    target = targets(make_pairs(rows))
    assert target.answer_ids.shape == target.foil_ids.shape
    for i, (answers, foils) in enumerate(rows):
        assert tuple(np.asarray(target.answer_ids[i])[np.asarray(target.answer_mask[i])]) == answers
        assert tuple(np.asarray(target.foil_ids[i])[np.asarray(target.foil_mask[i])]) == foils


def test_metrics_of_no_foils_are_those_of_numpy():
    """Several answers, and answers of several tokens, in logits by hand."""
    logits = np.random.default_rng(1).normal(0, 2, (1, 3, VOCABULARY)).astype(np.float32)
    log_p = logits[0] - np.log(np.exp(logits[0]).sum(axis=-1, keepdims=True))
    pairs = dataclasses.replace(
        make_pairs([((4, (7, 2)), ((5, 3),))]), foils=(((5, 3),),)
    )  # 7 is followed in row 1, 5 in row 2
    goal = targets(pairs)
    joint = {4: log_p[0, 4], (7, 2): log_p[0, 7] + log_p[1, 2], (5, 3): log_p[0, 5] + log_p[2, 3]}
    beaten = {4: np.sum(logits[0, 0] > logits[0, 0, 4])}
    beaten[7, 2] = sum(np.sum(logits[0, r] > logits[0, r, t]) for r, t in ((0, 7), (1, 2)))
    wanted = {
        "log_prob": np.logaddexp(joint[4], joint[7, 2]),
        "rank": -min(beaten.values()),
        "logit_diff": (joint[4] + joint[7, 2]) / 2 - joint[5, 3],
        "prob_diff": np.exp(joint[4]) + np.exp(joint[7, 2]) - np.exp(joint[5, 3]),
    }
    for metric, value in wanted.items():
        found = metric_values(jnp.asarray(logits), goal, metric)
        np.testing.assert_allclose(found, [value], rtol=1e-5, err_msg=metric)


@pytest.mark.parametrize(("first", "second", "right"), [(7, 2, 1), (7, 3, 0), (4, 3, 1), (5, 3, 0)])
def test_an_answer_is_right_where_it_is_said_greedily(first, second, right):
    goal = targets(make_pairs([((4, (7, 2)), ((5, 3),))]))
    logits = jnp.zeros((1, 3, VOCABULARY)).at[0, 0, first].set(1).at[0, 1, second].set(1)
    for metric in ("log_prob", "rank"):
        assert answers_beat(logits, goal, metric).tolist() == [right]
    assert answers_beat(jnp.zeros((1, 3, VOCABULARY)), goal, "rank").tolist() == [0.5]
    assert metric_values(logits, goal, "rank").tolist() == [0] if right else [-1]


def test_kl_needs_what_it_is_measured_from():
    goal = targets(make_pairs([((1,), (2,))]))
    with pytest.raises(InputError, match="the metric kl needs the whole model's prediction"):
        metric_values(jnp.zeros((1, VOCABULARY)), goal, "kl")


def test_unknown_metric():
    target = targets(make_pairs([((1,), (2,))]))
    with pytest.raises(InputError, match=r"'loss'.*logit_diff, prob_diff"):
        metric_values(jnp.zeros((1, VOCABULARY)), target, "loss")


OWN = """
def raises(logits, targets):
    raise KeyError("first\\nsecond")
def on_the_host(logits, targets):
    return float(logits.sum())
def complex(logits, targets):
    return logits[:, 0] + 1j
def table(logits, targets):
    return logits
def nothing(logits, targets):
    pass
def right(logits, targets):
    return logits[:, 0] > 0
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Functions of one's own, good and bad, and modules that cannot be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_metrics.py").write_text(OWN)
    (tmp_path / "broken_metrics.py").write_text("1 / 0")
    (tmp_path / "leaving_metrics.py").write_text("raise SystemExit(3)")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own_metrics:raises", "ends with KeyError: 'first"),
        ("own_metrics:on_the_host", "ends with ConcretizationTypeError: "),
        ("own_metrics:complex", "gives complex64; needed is a real array"),
        ("own_metrics:table", r"an array of shape \[1, 8\] for 1 prompts"),
        ("own_metrics:nothing", "gives NoneType; needed is a real array"),
        ("broken_metrics:any", "cannot be imported .division by zero"),
        ("leaving_metrics:any", "cannot be imported .3"),
        (".relative:any", "cannot be imported"),
        ("own_metrics:__name__", "is a str, not a function"),
    ],
)
def test_a_metric_of_ones_own_that_gives_no_number_is_named(own_module, name, said):
    goal = targets(make_pairs([((1,), (2,))]))
    measured = jax.jit(metric_values, static_argnames="metric")
    with pytest.raises(InputError, match=said) as caught:
        measured(jnp.ones((1, 8)), goal, name)
    assert "\n" not in str(caught.value)
    found = measured(jnp.ones((1, 8)), goal, "own_metrics:right")
    assert found.tolist() == [1.0]
    assert found.dtype == jnp.float32


def test_pairs_of_different_number():
    with pytest.raises(InputError, match="equal in number, got 2, 1, 2 and 2"):
        PromptPairs(("a", "b"), ("c",), ((1,), (1,)), ((2,), (2,)))


@pytest.mark.parametrize("side", ["answers", "foils"])
def test_pair_without_answer_or_foil(side):
    fields = {"answers": ((1,), (1,)), "foils": ((2,), (2,))} | {side: ((1,), ())}
    with pytest.raises(InputError, match=rf"{side}\[1\] is empty"):
        PromptPairs(("a", "b"), ("c", "d"), **fields)


@pytest.mark.parametrize("token", [-1, (4, -2)])
def test_tokens_are_whole_numbers_from_0(token):
    with pytest.raises(InputError, match=r"answers\[0\] is .*; allowed are token ids"):
        PromptPairs(("a",), ("b",), ((token,),), ((2,),))


def test_slices():
    pairs = make_pairs([((i,), (i + 1,)) for i in range(6)])
    assert len(pairs) == 6
    assert pairs[:2].positives + pairs[2:].positives == pairs.positives
    assert pairs[4:].foils == ((5,), (6,))


def test_task_and_targets_are_what_jax_and_sets_can_hold():
    pairs = make_pairs([((1,), (2,))])
    task = Task("x", "logit_diff", pairs, pairs, options={"seed": 0})
    assert task in {task}
    assert len(jax.tree.leaves(targets(pairs))) == 4
