"""Whether the model does the task: what is measured, refused and warned of."""

import dataclasses
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import circuits_jax as cj
from circuits_jax.lm import performance
from circuits_jax.lm.performance import Interval, Performance, interval
from circuits_jax.tasks import Targets, answers_beat, metric_values, targets
from tests.circuits import tiny

METHOD = "mean_difference"  # a cheap one
WELL = Interval(1.0, 0.5, 1.5)


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def planted():
    """A model that does its task, and the task."""
    model = cj.load_model("planted:2x4")
    return model, cj.make_task("planted", model.tokenizer, n=4, n_held_out=5)


def swapped(pairs):
    return dataclasses.replace(pairs, answers=pairs.foils, foils=pairs.answers)


def everywhere(task, change):
    return dataclasses.replace(task, learn=change(task.learn), held_out=change(task.held_out))


@pytest.mark.parametrize("metric", ["logit_diff", "prob_diff"])
def test_performance_is_the_definition(model, metric):
    """More pairs than a pass takes; recomputed from the logits."""
    task = dataclasses.replace(tiny.task(n=3, n_held_out=18), metric=metric)
    found = performance.measure(model, task)
    for name, pairs in (("learn", task.learn), ("held_out", task.held_out)):
        values = np.stack(
            [
                metric_values(model.logits(texts), targets(pairs), metric)
                for texts in (pairs.positives, pairs.negatives)
            ]
        )
        own = found[name]
        assert own.pairs == len(pairs)
        np.testing.assert_allclose([own.metric, own.negative_metric], values.mean(1), atol=1e-4)
        np.testing.assert_allclose(
            [own.accuracy, own.negative_accuracy], (values > 0).mean(1), atol=1e-9
        )
        wanted = stats.ttest_1samp(values[0] - values[1], 0).confidence_interval(0.95)
        np.testing.assert_allclose(
            [own.gap.mean, own.gap.low, own.gap.high],
            [np.mean(values[0] - values[1]), wanted.low, wanted.high],
            atol=1e-3,
        )
        assert own.without_contrast == 0
    assert performance.measure(model, task, ("learn",)) == {"learn": found["learn"]}


def test_ties_count_half():
    logits = jnp.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    one = jnp.zeros((4, 1), int)
    goal = Targets(one, one == 0, one + 1, one == 0)
    np.testing.assert_array_equal(answers_beat(logits, goal, "logit_diff"), [1, 0.5, 0, 1])
    np.testing.assert_array_equal(answers_beat(logits, goal, "log_prob"), [1, 0.5, 0, 1])


def test_an_interval_of_one_value_is_not_known():
    one = interval(np.array([3.0]))
    assert (one.mean, np.isnan(one.low), one.above_zero) == (3.0, True, False)
    assert one.verdict() == "within noise"
    assert interval(np.array([2.0, 2.0])) == Interval(2.0, 2.0, 2.0)


PAIRS = {
    "same text": (
        lambda p: dataclasses.replace(p, negatives=p.positives),
        "the negative prompt is",
    ),
    "same tokens": (
        lambda p: dataclasses.replace(p, negatives=tuple(f" {t}  " for t in p.positives)),
        "the negative prompt is the positive one",
    ),
}


@pytest.mark.parametrize("case", PAIRS)
@pytest.mark.parametrize("part", ["learn", "held_out"])
def test_pairs_without_contrast_are_refused_before_any_scoring(model, monkeypatch, case, part):
    change, message = PAIRS[case]
    task = tiny.task()
    task = dataclasses.replace(task, **{part: change(getattr(task, part))})
    of = {"learn": "3 pairs to learn from", "held_out": "4 held-out pairs"}[part]
    circuit = cj.Scores(np.eye(3, 4), np.zeros((12, 12))).circuit(size=3)
    calls = {
        "learn": (lambda: cj.discover(model, task, METHOD), lambda: cj.bootstrap(model, task)),
        "held_out": (lambda: cj.evaluate(model, task, circuit),),
    }
    method = dataclasses.replace(cj.METHODS[METHOD], function=lambda *_: pytest.fail("scored"))
    monkeypatch.setitem(cj.METHODS, METHOD, method)
    for call in calls[part]:
        with pytest.raises(cj.InputError, match=f"no contrast: in all {of} {message}"):
            call()


def test_prompts_that_the_model_does_not_tell_apart_are_refused(model):
    """Texts differ; without attention the last token alone decides, and it is the same."""
    heads = model.params["layers"]["attention"]
    silent = tiny.with_attention(model, o=jnp.zeros_like(heads["o"]))
    with pytest.raises(cj.InputError, match="predicts the same next token after both prompts"):
        cj.discover(silent, tiny.task(), METHOD)
    faint = tiny.with_attention(model, o=1e-2 * heads["o"])
    cj.discover(faint, tiny.task(), METHOD)  # little is not nothing


def test_some_pairs_without_contrast_are_counted(planted):
    model, task = planted
    pairs = task.learn
    task = dataclasses.replace(
        task,
        learn=dataclasses.replace(pairs, negatives=(*pairs.positives[:1], *pairs.negatives[1:])),
    )
    with pytest.warns(cj.TaskWarning, match="1 of the 4 pairs to learn from have no contrast"):
        cj.discover(model, task, METHOD)


def said(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    return result, [str(one.message) for one in caught if one.category is cj.TaskWarning]


def test_a_task_that_is_done_is_not_doubted(planted):
    model, task = planted
    scores, of_discover = said(lambda: cj.discover(model, task, METHOD))
    options = cj.EvaluationOptions(ablations=("zero",), curve=(), n_random=0)
    evaluation, of_evaluate = said(
        lambda: cj.evaluate(model, task, scores.circuit(size=2), 0, options)
    )
    assert (of_discover, of_evaluate, evaluation.warnings, evaluation.doubts) == ([], [], [], [])
    assert evaluation.performance["held_out"].accuracy == 1
    assert evaluation.positive_metric == evaluation.performance["held_out"].metric


def test_answers_and_foils_swapped(planted):
    model, task = planted
    task = everywhere(task, swapped)
    scores, of_discover = said(lambda: cj.discover(model, task, METHOD))
    assert len(of_discover) == 2
    assert "no better than chance (answer and foil may be swapped)" in of_discover[0]
    assert (
        "0% of the positive prompts of the 4 pairs to learn from (mean metric -10)"
        in of_discover[0]
    )
    assert "is the wrong way round" in of_discover[1]
    options = cj.EvaluationOptions(ablations=("zero",), curve=(), n_random=0)
    evaluation, of_evaluate = said(
        lambda: cj.evaluate(model, task, scores.circuit(size=2), 0, options)
    )
    assert of_evaluate == evaluation.warnings
    assert "the 5 held-out pairs" in evaluation.warnings[0]
    assert "faithfulness means nothing" in evaluation.warnings[2]
    assert "with others set to zero" in evaluation.warnings[2]
    assert not evaluation.means_something("zero")
    assert "zero (no meaning)" in str(evaluation)


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({}, []),
        ({"accuracy": 0.5}, ["no better than chance"]),
        ({"metric": -0.1}, ["no better than chance"]),
        ({"gap": Interval(1.0, -0.1, 2.1)}, ["is within noise"]),
        ({"gap": Interval(1.0, np.nan, np.nan)}, ["is within noise"]),
        ({"gap": Interval(-1.0, -1.5, -0.5)}, ["is the wrong way round"]),
        ({"accuracy": 0.4, "gap": Interval(0.0, -1.0, 1.0)}, ["no better than", "is within noise"]),
    ],
)
def test_doubts_by_hand(changes, texts):
    good = Performance(10, 0.9, 2.0, 0.4, 0.1, WELL)
    found = performance.doubts({"learn": good, "held_out": dataclasses.replace(good, **changes)})
    assert [text in one for text, one in zip(texts, found, strict=True)] == [True] * len(texts)
    assert all("the 10 held-out pairs" in one and "to learn" not in one for one in found)


def test_a_record_of_json_gives_the_same_back():
    measured = {"learn": Performance(1, 0.9, 2.0, 0.4, 0.1, WELL, 1)}
    assert performance.from_json(performance.to_json(measured)) == measured


def test_nothing_is_known_of_the_noise_of_one_pair(model):
    _, sentences = said(lambda: cj.discover(model, tiny.task(n=1), METHOD))
    assert any("(a single pair: no interval) over one pair to learn from" in s for s in sentences)


SWAPPED = """
import json, sys
import numpy as np
import circuits_jax as cj
from tests.circuits import tiny

m, t = tiny.model(), tiny.task()
c = cj.Scores(np.eye(3, 4), np.zeros((12, 12))).circuit(size=3)
o = cj.EvaluationOptions(ablations=("zero",), curve=(), n_random=0)
said = {}
for case in sys.argv[1:]:
    try:
        said[case] = repr(type(eval(case)).__name__)
    except cj.InputError as error:
        said[case] = str(error)
    except Exception as error:
        said[case] = repr(error)
print(json.dumps(said))
"""
CASES = {
    "cj.evaluate(m, t, c, o)": "'Evaluation'",
    "cj.discover(m, t, cj.METHODS['sae_codes'].options)": "method is a SaeCodes; allowed is a str,",
    "cj.discover(m, t, {'l1': 0.02})": "method is a dict; allowed is a str,",
    "cj.discover(t, m)": "model is a Task; allowed is a LanguageModel, as load_model gives it",
    "cj.discover(m, None)": "task is a NoneType; allowed is a Task,",
    "cj.evaluate(m, t, cj.Scores(c.head_scores, c.edge_scores))": "circuit is a Scores; allowed is",
    "cj.evaluate(m, c, t)": "task is a Circuit; allowed is a Task",
    "cj.evaluate(m, t, c, '0')": "the key is a str; allowed is a seed",
    "cj.evaluate(m, t, c, c.head_scores)": "the key is a ndarray; allowed is a seed",
    "cj.evaluate(m, t, c, options={'curve': ()})": "options is a dict; allowed is",
    "cj.evaluate(m, t, c, o, o)": "the key is a EvaluationOptions; allowed is",
    "cj.bootstrap(m, t, o)": "the key is a EvaluationOptions; allowed is",
    "cj.bootstrap(m, c)": "task is a Circuit; allowed is a Task",
    "cj.make_task('ioi', m)": "the tokenizer is a LanguageModel; allowed is",
}


def test_arguments_in_the_place_of_others():
    """Outside pytest, which checks types at every call."""
    command = [sys.executable, "-W", "ignore", "-c", SWAPPED, *CASES]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    said = json.loads(output.stdout.splitlines()[-1])
    assert {case: text[: len(CASES[case])] for case, text in said.items()} == CASES
    assert not any("\n" in text for text in said.values())
