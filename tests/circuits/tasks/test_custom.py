"""Tasks from files of prompts: which pairs they make, and how they are split."""

import dataclasses
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import make_task

GOOD = {
    "positive": "The war lasted",
    "negative": "The",
    "answer": " from",
    "foil": [" to", " year"],
}


def line(**changes):
    return json.dumps(GOOD | changes)


def without(field):
    return json.dumps({key: value for key, value in GOOD.items() if key != field})


def write(tmp_path, *lines):
    path = tmp_path / "task.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_too_few_lines_say_what_to_set(tmp_path, split_digits):
    with pytest.raises(InputError, match=r"has 1 pairs.* at least 6 lines$"):
        make_task("custom", split_digits, n=5, path=write(tmp_path, *numbered(1)))
    with pytest.raises(InputError, match=r"at least 6 lines, or give --config.task.n of at most 2"):
        make_task("custom", split_digits, n=5, path=write(tmp_path, *numbered(3)))


def numbered(count):
    return [line(positive=f"The war lasted {i}") for i in range(count)]


def test_reads_pairs(tmp_path, split_digits):
    path = write(tmp_path, line(), "", line(positive="The siege lasted", answer=[" from"]), "")
    task = make_task("custom", split_digits, n=1, path=path)
    assert task.metric == "logit_diff"
    assert {*task.learn.positives, *task.held_out.positives} == {
        "The war lasted",
        "The siege lasted",
    }
    assert task.learn.negatives == ("The",)
    assert split_digits.decode(task.learn.answers[0]) == " from"
    assert [split_digits.decode([t]) for t in task.learn.foils[0]] == [" to", " year"]
    assert task.truths == ()


@given(seed=st.integers(0, 2**40), n=st.integers(1, 6))
@settings(max_examples=15, deadline=None)
def test_split_is_seeded_and_complete(tmp_path_factory, split_digits, seed, n):
    path = write(tmp_path_factory.mktemp("custom"), *numbered(7))
    task = make_task("custom", split_digits, n=n, seed=seed, path=str(path))
    assert len(task.learn) == n
    everything = [json.loads(row)["positive"] for row in numbered(7)]
    assert sorted(task.learn.positives + task.held_out.positives) == everything
    for part in (task.learn, task.held_out):
        assert list(part.positives) == sorted(part.positives)
    assert task == make_task("custom", split_digits, n=n, seed=seed, path=str(path))


@given(seed=st.integers(0, 2**40), n_held_out=st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_held_out_lines_can_be_fewer(tmp_path_factory, split_digits, seed, n_held_out):
    """Those that learn stay the same; those held out are among all the others, in their order."""
    path = write(tmp_path_factory.mktemp("custom"), *numbered(7))
    given = {"n": 3, "seed": seed, "path": path}
    every = make_task("custom", split_digits, **given)
    assert every == make_task("custom", split_digits, n_held_out=0, **given)
    few = make_task("custom", split_digits, n_held_out=n_held_out, **given)
    assert few.learn == every.learn
    assert len(few.held_out) == few.options["n_held_out"] == n_held_out
    assert set(few.held_out.positives) <= set(every.held_out.positives)
    assert list(few.held_out.positives) == sorted(few.held_out.positives)


@pytest.mark.parametrize("n_held_out", [5, 100])
def test_more_lines_held_out_than_there_are(tmp_path, split_digits, n_held_out):
    path = write(tmp_path, *numbered(7))
    with pytest.raises(InputError, match=f"n_held_out is {n_held_out}; allowed is 1 to 4, or 0"):
        make_task("custom", split_digits, n=3, n_held_out=n_held_out, path=path)


def test_seeds_choose_different_lines(tmp_path, split_digits):
    path = write(tmp_path, *numbered(7))
    tasks = [make_task("custom", split_digits, n=3, seed=s, path=path) for s in range(10)]
    assert len({task.learn.positives for task in tasks}) > 1


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ("{", "line 2: not JSON"),
        ("[1, 2]", "line 2: must be a JSON object, got list"),
        ("null", "line 2: must be a JSON object, got NoneType"),
        (without("negative"), "line 2: lacks the field 'negative'; needed: positive, negative"),
        (without("foil"), "line 2: lacks the field 'foil'"),
        (line(positive=""), "line 2: positive must be a string that is not empty, got ''"),
        (line(negative="  "), "line 2: negative must be a string that is not empty"),
        (line(negative=3), "line 2: negative must be a string .* got 3"),
        (line(answer=""), "line 2: answer must be a string or a list of strings, none empty"),
        (line(answer=[]), "line 2: answer must be a string or a list of strings"),
        (line(foil=[" to", None]), "line 2: foil must be a string or a list of strings"),
        (line(foil={"a": 1}), "line 2: foil must be a string or a list of strings"),
        (line(foil=" from"), "line 2: ' from' is both an answer and a foil"),
    ],
)
def test_hostile_lines(tmp_path, split_digits, bad, sentence):
    path = write(tmp_path, line(), bad, *numbered(3))
    with pytest.raises(InputError, match=sentence) as error:
        make_task("custom", split_digits, n=1, path=path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("unfit", "sentence"),
    [
        (line(answer=" from to"), r"answer ' from to' .* makes 2 of it: \[' from', ' to'\]"),
        (line(foil=[" to", " 17"]), "foil ' 17' must be exactly one token"),
        (line(positive="The wa", answer="r"), "makes 1 of it: .* another split after the prompt"),
        (line(), "the same pair as line 1"),
    ],
)
def test_pairs_that_do_not_fit_are_left_out_and_counted(
    tmp_path, split_digits, caplog, unfit, sentence
):
    plain = write(tmp_path, line(), *numbered(3))
    wanted = make_task("custom", split_digits, n=1, path=plain)
    path = write(tmp_path, line(), unfit, *numbered(3))
    found = make_task("custom", split_digits, n=1, path=path)
    assert (found.learn, found.held_out) == (wanted.learn, wanted.held_out)
    assert re.search(rf"1 of 5 pairs of .* line 2: .*{sentence}", caplog.text)
    with pytest.raises(InputError, match=rf"has 4 pairs: 4 learn.*1 of 5 pairs.*{sentence}"):
        make_task("custom", split_digits, n=4, path=path)


def test_the_first_token_of_answers_may_be_asked_for(tmp_path, split_digits):
    path = write(tmp_path, line(answer=" from to", foil=" year of"), *numbered(3))
    task = make_task("custom", split_digits, n=1, path=path, answer_tokens="first")
    whole = make_task(
        "custom",
        split_digits,
        n=1,
        path=write(tmp_path, line(answer=" from", foil=" year"), *numbered(3)),
    )
    assert (task.learn, task.held_out) == (whole.learn, whole.held_out)


def test_one_positive_with_several_negatives_is_in_one_part(tmp_path, split_digits):
    several = [
        line(positive=f"The war of {i}", negative=[f"The {i}", f"The year {i}"]) for i in range(6)
    ]
    for seed in range(5):
        path = write(tmp_path, *several)
        task = make_task("custom", split_digits, n=3, seed=seed, path=path)
        assert len(task.learn) == 3
        assert not set(task.learn.positives) & set(task.held_out.positives)
        assert len(task.held_out) in (8, 9)
    turned = write(tmp_path, line(positive=["The war", "The year"], negative="The"), *numbered(2))
    assert len(make_task("custom", split_digits, n=1, path=turned).held_out) == 3


def rows():
    return [json.loads(text) for text in numbered(4)]


@pytest.mark.parametrize("seed", range(4))
def test_a_pair_and_itself_turned_round_are_in_one_part(tmp_path, split_digits, seed):
    both = [(f"The war of {i}", f"The year {i}") for i in range(4)]
    both += [pair[::-1] for pair in both]
    path = write(tmp_path, *(line(positive=one, negative=other) for one, other in both))
    task = make_task("custom", split_digits, n=4, seed=seed, path=path)
    learnt, held_out = ({*x.positives, *x.negatives} for x in (task.learn, task.held_out))
    assert len(task.learn) == len(task.held_out) == 4
    assert not learnt & held_out


def test_nothing_left_to_hold_out(tmp_path, split_digits):
    path = write(tmp_path, *numbered(3))
    with pytest.raises(InputError, match=r"has 3 pairs: 3 learn .* at least 4"):
        make_task("custom", split_digits, n=3, path=path)


def test_foils_may_be_missing_where_the_metric_compares_with_none(tmp_path, split_digits):
    bare = [json.dumps({k: v for k, v in row.items() if k != "foil"}) for row in rows()]
    path = write(tmp_path, *bare[:2], *numbered(4)[2:])
    with pytest.raises(InputError, match="line 1: lacks the field 'foil'"):
        make_task("custom", split_digits, n=1, path=path)
    task = make_task("custom", split_digits, n=1, path=path, metric="log_prob")
    assert (task.metric, set(task.learn.foils), set(task.held_out.foils)) == (
        "log_prob",
        {()},
        {()},
    )
    with pytest.raises(InputError, match="has no foils, with which the metric logit_diff"):
        dataclasses.replace(task, metric="logit_diff")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"metric": "loss"}, "metric is 'loss'; allowed are logit_diff, .* rank, kl, MODULE:F"),
        ({"metric": "no.such:thing"}, "'no.such:thing' cannot be imported"),
        ({"metric": "math:no"}, "'math:no' cannot be imported"),
        ({"metric": "math:pi"}, "'math:pi' is a float, not a function"),
        ({"answer_tokens": "two"}, "answer_tokens is 'two'; allowed are one, first, all"),
        ({"ids": "gpt2"}, "ids is 'gpt2'; allowed are model"),
    ],
)
def test_options_that_are_not_allowed(tmp_path, split_digits, options, sentence):
    with pytest.raises(InputError, match=sentence):
        make_task("custom", split_digits, n=1, path=write(tmp_path, *numbered(3)), **options)


def test_all_tokens_of_answers_may_be_asked_for(tmp_path, split_digits):
    path = write(tmp_path, line(answer=[" from to", " to"], foil=" year of"), *numbered(1))
    learn = make_task("custom", split_digits, n=1, path=path, answer_tokens="all", seed=0)
    both = [*zip(learn.learn.answers, learn.learn.foils, strict=True)]
    both += zip(learn.held_out.answers, learn.held_out.foils, strict=True)

    def ids(text):
        return tuple(split_digits(text, add_special_tokens=False).input_ids)

    assert ((ids(" from to"), *ids(" to")), (ids(" year of"),)) in both
    assert all(
        isinstance(one, int) for row in both if row[1][0] != ids(" year of") for one in row[0]
    )


def test_an_answer_that_begins_another_is_no_choice(tmp_path, split_digits, caplog):
    path = write(tmp_path, line(answer=" from to", foil=" from"), *numbered(3))
    make_task("custom", split_digits, n=1, path=path, answer_tokens="all")
    assert "' from to' begins with ' from', another answer or foil" in caplog.text


def test_words_that_merge_with_their_prompt_have_their_own_tokens(tmp_path, smollm2):
    """Japanese has no spaces, so that the end of a prompt and an answer may be one token."""
    merging = {
        "positive": "\u3042",
        "negative": "\u3044",
        "answer": "\u308a\u304c",
        "foil": "\u305d\u3046",
    }
    prompts = [merging | {"positive": f"{i}{merging['positive']}"} for i in range(40)]
    path = write(tmp_path, *(json.dumps(row) for row in prompts))
    task = make_task("custom", smollm2, n=1, path=path, answer_tokens="all")
    for prompt, (answer,) in zip(task.learn.positives, task.learn.answers, strict=True):
        front = smollm2(prompt).input_ids
        assert smollm2.decode([*front, *answer]) == prompt + merging["answer"]


def test_kl_looks_at_no_answer(tmp_path, split_digits):
    bare = [json.dumps({k: row[k] for k in ("positive", "negative")}) for row in rows()]
    path = write(tmp_path, *bare[:2], *numbered(4)[2:])
    task = make_task("custom", split_digits, n=1, path=path, metric="kl")
    assert {*task.learn.answers, *task.held_out.answers, *task.held_out.foils} == {()}
    with pytest.raises(InputError, match="has no answers, which the metric rank looks at"):
        dataclasses.replace(task, metric="rank")


def test_one_positive_with_many_negatives_cannot_be_split(tmp_path, split_digits):
    path = write(tmp_path, *(line(negative=f"The year {i}") for i in range(4)))
    with pytest.raises(InputError, match=r"of which 2 learn .* and all others have positive prom"):
        make_task("custom", split_digits, n=2, path=path)


def test_a_prompt_too_long_is_left_out_and_counted(tmp_path, split_digits, caplog):
    long = line(negative="The war " * 20)
    path = write(tmp_path, long, *numbered(3))
    assert len(make_task("custom", split_digits, n=1, path=path).held_out) == 3
    task = make_task("custom", split_digits, n=1, path=path, n_positions=20)
    assert len(task.held_out) == 2
    assert re.search(r"1 of 4 pairs .* line 1: it has \d+ tokens; the model takes 20", caplog.text)
    several = line(answer=" from to from to from", foil=" year")
    path = write(tmp_path, several, *numbered(3))
    length = len(split_digits("The war lasted 0").input_ids)
    options = {"answer_tokens": "all", "n_positions": length}
    assert len(make_task("custom", split_digits, n=1, path=path, **options).held_out) == 2
