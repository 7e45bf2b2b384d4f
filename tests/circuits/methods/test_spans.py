"""Spans of prompts, and scores of heads by span: identities, and planted circuits."""

import dataclasses
import itertools

import numpy as np
import pytest

import circuits_jax as cj
from circuits_jax.capture.head_outputs import read_outputs, read_spans
from circuits_jax.lm.spans import spans_of
from circuits_jax.methods import method_options
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks.spans import CHANGED, SLOTS, difference_spans, text_spans
from tests.circuits import tiny

METHODS = ("sae_codes", "attribution", "exact_patching")


def words(template, text):
    """Which words of a text are in each span."""
    names, spans = text_spans(text, [template])
    found = {name: [] for name in names}
    for span, letters in itertools.groupby(zip(spans, text, strict=True), lambda one: one[0]):
        found[names[span]] += "".join(letter for _, letter in letters).split()
    return {name: part for name, part in found.items() if part}


def test_places_of_a_template():
    found = words("When {a} and {b} went, {c} gave", "When Mary and John went, Mary gave")
    assert found == {
        "start": ["When"],
        "a": ["Mary"],
        "after a": ["and"],
        "b": ["John"],
        "after b": ["went,"],
        "c": ["Mary"],
        "after c": ["gave"],
    }
    assert words("{a} and", "new york and")["a"] == ["new", "york"]
    assert words("{a} is {b}", "it is so")["b"] == ["so"]
    assert words("{a} and {b}", "x and y and z")["a"] == ["x"]
    assert words("a {0} or a {0}", "a dog or a cat")["0"] == ["dog", "cat"]
    assert words("a {x} is", "<user> a dog is <model>")["after x"] == ["is", "<model>"]


def test_differences_of_a_pair():
    spans = difference_spans([x != y for x, y in zip("abCDefGh", "abXYefZh", strict=True)])
    told = [CHANGED[i] for i in spans]
    assert told == ["before", "before", "changed", "changed", "next", "after", "changed", "last"]
    assert [CHANGED[i] for i in difference_spans([False, False])] == ["before", "last"]
    assert [CHANGED[i] for i in difference_spans([True, True])] == ["changed", "last"]


@pytest.fixture(scope="module")
def names_task():
    """Of two lengths, and one pair whose prompts have different lengths."""
    rows = [
        ("when Ann and Bob went out then {} gave it to", "Bob", "Cid", "Ann", "Bob"),
        ("when Dee and Eve went then {} gave it to", "Eve", "Gus", "Dee", "Eve"),
        ("when Hal and Eve went then {} gave it to", "Eve", "Fay Gus", "Hal", "Eve"),
    ]
    rows = [(text.format(a), text.format(b), *rest) for text, a, b, *rest in rows]
    pairs = tiny.prompt_pairs(rows)
    return cj.Task("names", "logit_diff", pairs, pairs)


TEMPLATES = (
    "when {first} and {second} went out then {giver} gave it to"
    "|when {first} and {second} went then {giver} gave it to"
)


@pytest.mark.parametrize("side", ["left", "right"])
def test_tokens_of_spans(names_task, side):
    model, pairs = tiny.model(), names_task.learn
    sides = model.tokenize_pairs(pairs.positives, pairs.negatives, side=side)
    found = spans_of(model, names_task, TEMPLATES, sides)
    assert found.names[0] == "start"
    assert found.names[-1] == "last"
    tokens, mask = np.asarray(sides[0].tokens), np.asarray(sides[0].mask)
    assert ((found.of_token >= 0) == mask).all()
    for row, (first, second) in enumerate((("Ann", "Bob"), ("Dee", "Eve"), ("Hal", "Eve"))):
        own = dict.fromkeys(found.names, "")
        for token, span in zip(tokens[row], found.of_token[row], strict=True):
            if span >= 0:
                own[found.names[span]] += f" {tiny.WORDS[token]}"
        assert (own["first"], own["second"]) == (f" {first}", f" {second}")
        assert own["giver"] == f" {second}"
        assert own["last"] == " to"
    changed = spans_of(model, names_task, "changed", sides)
    assert changed.names == CHANGED
    ones = [
        np.array(tiny.WORDS)[tokens[row][changed.of_token[row] == 1]].tolist() for row in (0, 1)
    ]
    assert ones == [["Bob"], ["Eve"]]
    whole = found.inside(mask.shape[1] + 3)
    assert (whole[:, :, : mask.shape[1]].sum(axis=0) == mask).all()
    assert whole[-1, :, mask.shape[1] :].all()


def test_effects_of_spans_sum_to_those_of_heads(names_task):
    model = tiny.model()
    whole = cj.discover(model, names_task, "attribution_ig", steps=2)
    found = cj.discover(model, names_task, "attribution_ig", steps=2, spans="changed")
    by_span = np.asarray(found.details["span_effects"])
    np.testing.assert_allclose(by_span.sum(axis=0), whole.details["effects"], atol=1e-5)
    np.testing.assert_allclose(found.head_scores, whole.head_scores, atol=1e-5)
    assert not by_span[CHANGED.index("before")].any()
    assert by_span[CHANGED.index("changed")].any()


def test_exact_effects_of_spans_are_those_of_their_tokens(names_task):
    """Where a span is one token, and where it is all that moves."""
    model = tiny.model()
    task = dataclasses.replace(names_task, learn=names_task.learn[:1])
    found = cj.discover(model, task, "exact_patching", spans="changed", positions="each")
    by_token = np.asarray(found.details["position_effects"])
    by_span = dict(zip(CHANGED, np.asarray(found.details["span_effects"]), strict=True))
    np.testing.assert_allclose(by_span["last"], by_token[-1], atol=1e-6)
    np.testing.assert_allclose(by_span["changed"], by_token[-4], atol=1e-6)
    np.testing.assert_allclose(by_span["next"], by_token[-3], atol=1e-6)
    np.testing.assert_allclose(by_span["before"], 0, atol=1e-6)
    with pytest.raises(InputError, match="not by token span"):
        cj.discover(model, task, "attribution").ranked_spans()


def test_the_peak_is_the_largest_over_spans(names_task):
    model, pairs = tiny.model(), names_task.learn
    sides = model.tokenize_pairs(pairs.positives, pairs.negatives, side="left")
    spans = spans_of(model, names_task, "changed", sides)
    inside = spans.inside(sides[0].tokens.shape[1])
    by_span = np.linalg.norm(read_spans(model, pairs, inside), axis=-1)
    whole = np.linalg.norm(read_outputs(model, pairs), axis=-1)
    np.testing.assert_allclose(by_span.max(axis=0), whole, rtol=1e-5)
    parts = np.linalg.norm(read_spans(model, pairs, inside, batch_size=4), axis=-1)
    np.testing.assert_allclose(parts, by_span, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_planted_heads_are_found_where_they_work(method):
    """The head of the token before says it at the token after the word that differs; the head that
    looks for it answers at the last."""
    model = cj.load_model("planted:3x4:induction:1")
    task = cj.make_task("planted", model.tokenizer, n=3)
    roles = {role: next(iter(heads)) for role, heads in task.truths[0].roles.items()}
    scores = cj.discover(model, task, method, spans="changed")
    wanted = {(*roles["before"], "next"), (*roles["induction"], "last")}
    assert set(scores.ranked_spans(2)) == wanted
    best = scores.circuit(size=2).ranked_heads()
    assert set(best) == set(roles.values())


def test_templates_of_tasks_are_those_of_their_prompts():
    model = cj.load_model("planted:3x4")
    for name in ("ioi", "capitals"):
        filled = SLOTS[name][0].replace("{", "").replace("}", "")
        assert len(text_spans(filled, SLOTS[name])[0]) > 2
    task = cj.make_task("planted", model.tokenizer, n=1)
    with pytest.raises(InputError, match="task 'planted' has no templates of its own"):
        cj.discover(model, task, "attribution", spans="slots")
    with pytest.raises(InputError, match="is of none of the templates 'The"):
        cj.discover(model, task, "attribution", spans="The {noun} is")


@pytest.mark.parametrize("method", METHODS)
def test_schemas_that_are_none(method):
    with pytest.raises(InputError, match="spans is 'changes'; allowed are changed, slots"):
        method_options(method, spans="changes")


def test_codes_of_means_have_no_spans():
    with pytest.raises(InputError, match="spans is 'changed' with position 'mean'"):
        method_options("sae_codes", spans="changed", position="mean")
