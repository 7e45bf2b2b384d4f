"""Metrics without foils and of one's own: the methods agree with a plain loop over heads."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax import interpose
from circuits_jax.capture.ablation import sides, trial
from circuits_jax.evaluation.faithfulness import EvaluationOptions, evaluate
from circuits_jax.lm.performance import measure
from circuits_jax.methods import discover
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import PromptPairs, answer_log_probs, metric_values, targets
from circuits_jax.tasks.base import divergence
from tests.circuits import tiny

L, H = 2, 4
CONFIG = dataclasses.replace(tiny.CONFIG, n_layers=2, layer_kinds=(), windows=())


def too_many(logits, targets):
    return logits


WORDS = {
    "one token": ((("Ann",), ("Bob",)), (("Cid",), ("Dee",))),
    "several tokens": ((("Ann", "and"), ("Bob",)), (("Cid", "then", "it"), ("Ann", "went"))),
}
METRICS = ("logit_diff", "prob_diff", "log_prob", "rank", "kl", f"{__name__}:likeliest")
KINDS = [("several tokens", m) for m in METRICS if m != "prob_diff"] + [("one token", "log_prob")]


def likeliest(logits, targets):
    """Of one's own: how much likelier the best answer is than the best foil."""
    best = [
        jnp.max(values, axis=-1, where=there, initial=-jnp.inf)
        for values, there in (answer_log_probs(logits, targets, s) for s in ("answer", "foil"))
    ]
    return best[0] - best[1]


def words_to(*words):
    return tuple(tiny.WORDS.index(word) for word in words)


def asked(kind, metric):
    """The tiny task, with the answers and foils of a kind."""
    task, (answers, foils) = tiny.task(n=2, n_held_out=2), WORDS[kind]
    both = [
        tuple(ids if len(ids) > 1 else ids[0] for ids in (words_to(*one) for one in side))
        for side in (answers, foils)
    ]
    parts = [
        dataclasses.replace(pairs, answers=(both[0],) * 2, foils=(both[1],) * 2)
        for pairs in (task.learn, task.held_out)
    ]
    return dataclasses.replace(task, metric=metric, learn=parts[0], held_out=parts[1])


def plain_rows(pairs, kind):
    """Every (pair, side, answer, token) as a prompt of its own, and the word that it is asked."""
    rows = []
    for pair, (positive, negative) in enumerate(zip(pairs.positives, pairs.negatives, strict=True)):
        for side, answers in enumerate(WORDS[kind]):
            for number, answer in enumerate(answers):
                for at, word in enumerate(answer):
                    said = " ".join(("", *answer[:at]))
                    place = (pair, side, number)
                    rows.append((place, positive + said, negative + said, word))
    return rows


def plain_metric(logits, rows, whole, metric, soft=False):
    """The mean metric, one row, one pair and one answer at a time, in numpy."""
    logits, whole = (np.asarray(x, float) for x in (logits, whole))
    log_p, log_whole = (x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (logits, whole))
    joint, rank, kl = {}, {}, {}
    for index, (place, *_, word) in enumerate(rows):
        own = tiny.WORDS.index(word)
        above = logits[index] - logits[index, own]
        counted = np.array([np.sum(above > 0), np.sum(1 / (1 + np.exp(-above)))])
        joint[place] = joint.get(place, 0) + log_p[index, own]
        rank[place] = rank.get(place, 0) + counted
        p = np.exp(log_whole[index])
        kl.setdefault(place[0], np.sum(p * (log_whole[index] - log_p[index])))
    values = []
    for pair in kl:
        answers, foils = (
            np.array([joint[p] for p in joint if p[:2] == (pair, side)]) for side in (0, 1)
        )
        ranks = [tuple(rank[p]) for p in rank if p[:2] == (pair, 0)]
        values.append(
            {
                "logit_diff": lambda a=answers, f=foils: a.mean() - f.mean(),
                "prob_diff": lambda a=answers, f=foils: np.exp(a).sum() - np.exp(f).sum(),
                "log_prob": lambda a=answers: np.log(np.exp(a).sum()),
                "rank": lambda r=ranks: -np.mean([x[int(soft)] for x in r if x[0] == min(r)[0]]),
                "kl": lambda p=pair: -kl[p],
                METRICS[-1]: lambda a=answers, f=foils: a.max() - f.max(),
            }[metric]()
        )
    return float(np.mean(values))


@functools.cache
def loop(kind):
    """The metric under a mask of heads, by the plain loop, of a kind of answers."""
    model = tiny.model(CONFIG)
    pairs = asked(kind, "kl").learn
    rows = plain_rows(pairs, kind)
    numbers = tuple((tiny.WORDS.index(word),) for *_, word in rows)
    _, positives, negatives, _ = zip(*rows, strict=True)
    prepared = trial(model, PromptPairs(positives, negatives, numbers, numbers), "resample")
    replaced = jax.jit(
        lambda keep: interpose.replace(
            model.config, model.params, prepared.batch, keep, prepared.replacement
        )
    )
    whole = replaced(jnp.ones((L, H)))
    return lambda keep, metric, soft=False: plain_metric(replaced(keep), rows, whole, metric, soft)


@pytest.mark.parametrize(("kind", "metric"), KINDS)
def test_every_kind_of_answer_and_metric_is_that_of_a_plain_loop(kind, metric):
    model, task, mean = tiny.model(CONFIG), asked(kind, metric), loop(kind)
    ones = jnp.ones((L, H))
    whole = mean(ones, metric)
    measured = measure(model, task)["learn"]
    assert measured.metric == pytest.approx(whole, rel=1e-3, abs=1e-5)
    assert measured.signed == (metric not in ("log_prob", "rank", "kl"))

    without = [mean(ones.at[at, h].set(0), metric) for at in range(L) for h in range(H)]
    found = discover(model, task, "exact_patching").details["effects"]
    np.testing.assert_allclose(np.ravel(found), whole - np.array(without), rtol=1e-3, atol=1e-4)

    at = 0.5 if metric == "kl" else 1  # kl has no slope at the whole model
    step = 0.01 * np.eye(L * H).reshape(-1, L, H)
    small = [
        mean(at * ones + change, metric, soft=True) - mean(at * ones - change, metric, soft=True)
        for change in step
    ]
    slopes = np.ravel(discover(model, task, "attribution").details["effects"])
    np.testing.assert_allclose(slopes, np.array(small) / 0.02, rtol=0.02, atol=5e-3)


@pytest.mark.parametrize("kind", WORDS)
def test_codes_are_those_of_a_plain_loop_whatever_the_answers(kind):
    """A head's score: what its codes say, where those of a pair differ, as a mean over pairs."""
    model, task = tiny.model(CONFIG), asked(kind, "log_prob")
    found = discover(model, task, "sae_codes")
    codes, strengths = (np.asarray(found.details[name]) for name in ("codes", "strengths"))
    n = len(task.learn)
    score = np.zeros(L * H)
    for head in range(L * H):
        for pair in range(n):
            if codes[pair, head] != codes[pair + n, head]:
                score[head] += strengths[pair, head] / n
    np.testing.assert_allclose(np.ravel(found.head_scores), score, rtol=1e-5)
    plain = discover(model, tiny.task(n=2), "sae_codes")
    np.testing.assert_array_equal(found.head_scores, plain.head_scores)


@pytest.mark.parametrize("metric", ["kl"])
def test_evaluation_is_that_of_a_plain_loop(metric):
    kind = "several tokens"
    model, task, mean = tiny.model(CONFIG), asked(kind, metric), loop(kind)
    learn = dataclasses.replace(task, held_out=task.learn)
    scores = discover(model, learn, "mean_difference")
    circuit = scores.circuit(size=3)
    options = EvaluationOptions(ablations=("resample",), curve=(), n_random=1)
    found = {j.kept: j.metric for j in evaluate(model, learn, circuit, 0, options).judgements}
    keep = jnp.asarray(circuit.heads, jnp.float32)
    assert found["circuit"] == pytest.approx(mean(keep, metric), rel=1e-3, abs=1e-4)
    assert found["complement"] == pytest.approx(mean(1 - keep, metric), rel=1e-3, abs=1e-4)


METHODS_WITH_A_METRIC = {
    "eap": ("kl", {}),
    "acdc": ("rank", {"thresholds": (0.01,), "divergence": "metric"}),
    "cdt": ("kl", {}),
    "subnetwork_probing": ("rank", {"steps": 2, "n_seeds": 1, "divergence": "metric"}),
}


@pytest.mark.parametrize("method", METHODS_WITH_A_METRIC)
def test_other_methods_take_them(method):
    metric, options = METHODS_WITH_A_METRIC[method]
    found = discover(tiny.model(CONFIG), asked("several tokens", metric), method, **options)
    scores = np.asarray(found.head_scores)
    assert scores.shape == (L, H)
    assert scores.any()


def test_denoising_measures_from_the_unpatched_positives():
    model, task = tiny.model(CONFIG), asked("one token", "kl")
    found = discover(model, task, "exact_patching", direction="denoising")
    both = [interpose.last_logits(model.config, model.params, b) for b in sides(model, task.learn)]
    assert float(jnp.mean(divergence(*both))) > 0.01
    # A head whose replacement by the positive's brings the prediction nearer has a positive effect.
    assert (np.asarray(found.details["effects"]) > 0).any()


def test_answers_that_do_not_fit_the_model_are_refused():
    task = asked("several tokens", "log_prob")
    far = dataclasses.replace(task.learn, answers=(((*words_to("Ann"), 99),),) * 2)
    with pytest.raises(InputError, match="an answer has the token 99, and tiny an embedding of 17"):
        measure(tiny.model(CONFIG), dataclasses.replace(task, learn=far))
    long = dataclasses.replace(task.learn, answers=((words_to("Ann") * 20,),) * 2)
    with pytest.raises(InputError, match="prompt 0 and its longest answer have 31 tokens; tiny ta"):
        measure(tiny.model(CONFIG), dataclasses.replace(task, learn=long))


def test_a_function_that_gives_no_number_for_each_prompt_is_refused():
    goal = targets(tiny.task(n=2).learn)
    with pytest.raises(
        InputError, match=r"too_many gives an array of shape \[2, 17\] for 2 prompts"
    ):
        metric_values(jnp.zeros((2, 17)), goal, f"{__name__}:too_many")
