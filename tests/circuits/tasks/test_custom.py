import json
import sys

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


def test_a_byte_order_mark_is_read(tmp_path, split_digits):
    path = write(tmp_path, *numbered(2))
    plain = make_task("custom", split_digits, n=1, path=path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert make_task("custom", split_digits, n=1, path=path) == plain


HOSTILE = {
    '{"a": ' + "[" * 10_000 + "]" * 10_000 + "}": "not JSON .nested too deep",
    '{"positive": ' + "9" * 5_000 + "}": "not JSON .*digits",
    '{"positive": NaN}': "not JSON .NaN is no JSON",
    '{"positive": -Infinity}': "not JSON .-Infinity is no JSON",
    '{"positive": 1e999}': "lacks the field",
    '{"positive": "a", "positive": "b"}': "not JSON .the key 'positive' twice in one object",
    line(positive="\ud800"): "positive must be Unicode text",
    line(negative="a \udcff"): "negative must be Unicode text",
    line(answer="\ud83d"): "answer must be Unicode text",
    line(foil=[" to", "\udfff"]): "foil must be Unicode text",
    line(positive="The\0war"): "positive must be Unicode text without NUL",
    line(positive=["x" * 100_000]): "positive must be a string",
    line(answer={"a": 1}): "answer must be a string or a list",
}


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_lines_that_break_parsers(tmp_path, split_digits, text):
    path = write(tmp_path, line(positive="The war of the year"), text)
    with pytest.raises(InputError, match=f"line 2: {HOSTILE[text]}") as caught:
        make_task("custom", split_digits, n=1, path=path)
    assert len(str(caught.value)) < 400 + len(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [".", "a\0b", "\ud800", "n" * 300, "absent"])
def test_paths_that_cannot_be_read(tmp_path, split_digits, name):
    with pytest.raises(InputError, match="cannot read the task file"):
        make_task("custom", split_digits, n=1, path=f"{tmp_path}/{name}")


def test_a_file_of_something_else(tmp_path, split_digits, monkeypatch):
    (tmp_path / "weights").write_bytes(b"\x93NUMPY\xff")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        make_task("custom", split_digits, n=1, path=tmp_path / "weights")
    monkeypatch.setattr(sys.modules["circuits_jax.tasks.custom"], "_LONGEST", 1000)
    with pytest.raises(InputError, match="has more than 1000 characters"):
        make_task("custom", split_digits, n=1, path="/dev/zero")


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
        (line(answer=" from to"), r"answer ' from to' .* makes 2 of it: \[' from', ' to'\]"),
        (line(foil=[" to", " 17"]), "line 2: foil ' 17' must be exactly one token"),
        (line(positive="The wa", answer="r"), "makes 1 of it: .* another split after the prompt"),
        (line(foil=" from"), "line 2: ' from' is both an answer and a foil"),
        (line(), "line 2: the positive prompt is that of line 1"),
    ],
)
def test_hostile_lines(tmp_path, split_digits, bad, sentence):
    path = write(tmp_path, line(), bad, *numbered(3))
    with pytest.raises(InputError, match=sentence) as error:
        make_task("custom", split_digits, n=1, path=path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@given(junk=st.binary(max_size=40))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_refused_in_one_sentence(tmp_path_factory, split_digits, junk):
    path = tmp_path_factory.mktemp("custom") / "task.jsonl"
    path.write_bytes(junk)
    with pytest.raises(InputError, match=r"task\.jsonl"):
        make_task("custom", split_digits, path=path)


def test_no_lines(tmp_path, split_digits):
    with pytest.raises(InputError, match=r"task\.jsonl has no lines"):
        make_task("custom", split_digits, path=write(tmp_path, "", "  "))


def test_nothing_left_to_hold_out(tmp_path, split_digits):
    path = write(tmp_path, *numbered(3))
    with pytest.raises(InputError, match=r"has 3 pairs: 3 learn .* at least 4"):
        make_task("custom", split_digits, n=3, path=path)


def test_no_file_and_no_path(tmp_path, split_digits):
    with pytest.raises(InputError, match=r"cannot read .*absent\.jsonl: No such file"):
        make_task("custom", split_digits, path=tmp_path / "absent.jsonl")
    with pytest.raises(InputError, match=r"cannot read .*directory"):
        make_task("custom", split_digits, path=tmp_path)
    with pytest.raises(InputError, match="needs its option path"):
        make_task("custom", split_digits)
