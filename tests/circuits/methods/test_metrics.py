"""Metrics without foils and of one's own: the methods agree with a plain loop over heads."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax import interpose
from circuits_jax.capture.ablation import trial
from circuits_jax.lm.performance import measure
from circuits_jax.methods import discover
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import metric_values
from tests.circuits import tiny

L, H = 2, 4
CONFIG = dataclasses.replace(tiny.CONFIG, n_layers=2, layer_kinds=(), windows=())


def rank(logits, targets):
    """How far the first answer is above the mean of all logits: of (logits, targets) alone."""
    at = jnp.take_along_axis(logits, targets.answer_ids[:, :1], axis=-1)[:, 0]
    return at - jnp.mean(logits, axis=-1)


def too_many(logits, targets):
    return logits


def by_hand(logits, answers, metric):
    """The metric of one prompt, in numpy."""
    if metric == "log_prob":
        p = np.exp(logits - logits.max())
        return np.log(p[list(answers)].sum() / p.sum())
    return logits[answers[0]] - logits.mean()


@pytest.fixture(scope="module")
def bare():
    """A task of several answers, and no foils."""
    task = tiny.task(n=2)
    parts = [
        dataclasses.replace(
            pairs,
            answers=tuple((*a, *f) for a, f in zip(pairs.answers, pairs.foils, strict=True)),
            foils=((),) * len(pairs),
        )
        for pairs in (task.learn, task.held_out)
    ]
    return dataclasses.replace(task, metric="log_prob", learn=parts[0], held_out=parts[1])


@pytest.mark.parametrize("metric", ["log_prob", f"{__name__}:rank"])
def test_exact_patching_and_attribution_of_a_metric_without_foils(bare, metric):
    model, task = tiny.model(CONFIG), dataclasses.replace(bare, metric=metric)
    prepared = trial(model, task.learn, "resample")

    replaced = jax.jit(
        lambda keep: interpose.replace(
            model.config, model.params, prepared.batch, keep, prepared.replacement
        )
    )

    def mean(keep):
        logits = replaced(keep)
        rows = zip(np.asarray(logits), task.learn.answers, strict=True)
        return np.mean([by_hand(row, answers, metric) for row, answers in rows])

    whole = mean(jnp.ones((L, H)))
    loop = [[whole - mean(jnp.ones((L, H)).at[at, h].set(0)) for h in range(H)] for at in range(L)]
    found = discover(model, task, "exact_patching").details["effects"]
    np.testing.assert_allclose(found, loop, rtol=1e-3, atol=1e-4)
    slopes = np.asarray(discover(model, task, "attribution").details["effects"])
    step = 0.02 * jnp.eye(L * H).reshape(-1, L, H)  # a slope is what a small share of a swap does
    small = [mean(1 + change) - mean(1 - change) for change in step]
    np.testing.assert_allclose(slopes.ravel(), np.array(small) / 0.04, rtol=0.05, atol=5e-3)
    measured = measure(model, task)["learn"]
    assert measured.signed == (metric != "log_prob")
    assert measured.metric == pytest.approx(whole, rel=1e-3)


def test_codes_look_at_no_answer(bare):
    model = tiny.model(CONFIG)
    found, plain = (discover(model, task, "sae_codes") for task in (bare, tiny.task(n=2)))
    np.testing.assert_array_equal(found.head_scores, plain.head_scores)


def test_a_function_that_gives_no_number_for_each_prompt_is_refused(bare):
    goal = trial(tiny.model(CONFIG), bare.learn, "zero").targets
    with pytest.raises(
        InputError, match=r"too_many gives an array of shape \[2, 17\] for 2 prompts"
    ):
        metric_values(jnp.zeros((2, 17)), goal, f"{__name__}:too_many")
