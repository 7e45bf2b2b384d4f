"""Files of prompts as people publish them: all forms are read alike; hostile ones are refused."""

import csv
import io
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import make_task, records
from circuits_jax.tasks.records import VERBS
from tests.circuits.tasks.test_custom import line, numbered, rows, write


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
    line(positive={"x": "x" * 100_000}): "positive must be a string",
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
    monkeypatch.setattr(records, "LONGEST", 1000)
    with pytest.raises(InputError, match="has more than 1000 characters"):
        make_task("custom", split_digits, n=1, path="/dev/zero")


def as_array(path):
    path.write_text(json.dumps(rows(), indent=1))


def as_auto_circuit(path):
    names = {
        "positive": "clean",
        "negative": "corrupt",
        "answer": "answers",
        "foil": "wrong_answers",
    }
    prompts = [{names[k]: v for k, v in row.items()} for row in rows()]
    for prompt in prompts:
        prompt["answers"] = [prompt["answers"]]
    path.write_text(
        json.dumps({"word_idxs": {}, "prompts": prompts}, indent=path.suffix != ".json")
    )


def as_auto_circuit_by_hand(path):
    as_auto_circuit(path)
    items = json.loads(path.read_text())["prompts"]
    lines = ",\n".join(json.dumps(item) for item in items)
    path.write_text('{"prompts": [\n' + lines + "]}\n")


def as_csv(path):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["", "clean", "corrupted", "answer", "foil"])
    for i, row in enumerate(rows()):
        writer.writerow([i, row["positive"], row["negative"], row["answer"], row["foil"]])
    path.write_bytes(b"\xef\xbb\xbf" + text.getvalue().encode())


def as_mib(path):
    lines = []
    for row in rows():
        choices = [row["answer"].strip(), *(foil.strip() for foil in row["foil"])]
        other = {"prompt": row["negative"], "choices": choices, "answerKey": 0}
        item = {"prompt": row["positive"], "choices": choices, "answerKey": 0}
        item["abc_counterfactual"] = {"prompt": "no", "choices": choices, "answerKey": 0}
        lines.append(json.dumps(item | {"s2_io_flip_counterfactual": other}))
    path.write_text("\r\n".join(lines))


@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.txt"])
@pytest.mark.parametrize(
    "write_as", [as_array, as_auto_circuit, as_auto_circuit_by_hand, as_csv, as_mib]
)
def test_forms_of_files_are_read_alike(tmp_path, split_digits, write_as, name):
    wanted = make_task("custom", split_digits, n=2, path=write(tmp_path, *numbered(4)))
    write_as(tmp_path / name)
    found = make_task("custom", split_digits, n=2, path=tmp_path / name)
    assert (found.learn, found.held_out) == (wanted.learn, wanted.held_out)


def test_mibs_other_counterfactuals(tmp_path, split_digits):
    path = tmp_path / "t.jsonl"
    as_mib(path)
    task = make_task("custom", split_digits, n=2, path=path, counterfactual="abc_counterfactual")
    assert set(task.learn.negatives) == {"no"}
    with pytest.raises(InputError, match=r"'other'; allowed: abc_counterfactual, s2_io_flip"):
        make_task("custom", split_digits, n=2, path=path, counterfactual="other")


def words(tokenizer, answers):
    return [tokenizer.decode([one] if isinstance(one, int) else one) for one in answers]


def test_mibs_foil_is_what_its_counterfactual_answers(tmp_path, split_digits, caplog):
    """Its letters, or its sum; one without a counterfactual is left out and counted."""
    choices = {"label": ["A", "B"], "text": ["red", "green"]}
    other = {"prompt": "The year C of", "choices": choices | {"label": ["C", "D"]}, "answerKey": 0}
    row = {"prompt": "The war of", "choices": choices, "answerKey": 1}
    rows = [row | {"prompt": f"The war {i} of", "symbol_counterfactual": other} for i in range(3)]
    rows.append(row | {"symbol_counterfactual": None})
    path = write(tmp_path, *map(json.dumps, rows))
    task = make_task("custom", split_digits, n=1, path=path, answer_tokens="all")
    assert words(split_digits, task.learn.answers[0] + task.learn.foils[0]) == [" B", " C"]
    assert "1 of 4 pairs" in caplog.text
    assert "its symbol_counterfactual is empty" in caplog.text
    sums = [
        {"prompt": f"The sum of {i} and 7 is ", "label": str(i + 7), "operator": "+"}
        | {"random_counterfactual": {"prompt": "The sum of 3 and 1 is ", "label": "4"}}
        for i in range(20, 23)
    ]
    path = write(tmp_path, *map(json.dumps, sums))
    task = make_task("custom", split_digits, n=1, path=path, answer_tokens="all")
    answer = int(task.learn.positives[0].split()[3]) + 7
    assert words(split_digits, task.learn.answers[0] + task.learn.foils[0]) == [str(answer), "4"]


@pytest.mark.parametrize(
    ("header", "rows", "answers", "foils"),
    [
        (
            "clean,answers,answers_idx,corrupted,corrupted_answers,corrupted_answers_idx",
            "\", the {} and other\",\"['war', 'peace']\",\"[1, 2]\",x,\"['peace', 'trade']\",[2]",
            [" war"],
            [" trade"],
        ),
        (
            "clean,capital,country,country_idx,corrupted,corrupted_country,corrupted_country_idx",
            '" {}, the capital of",x,Mary,3,"of",John,4',
            [" Mary"],
            [" John"],
        ),
        ("clean,corrupted,group,plural", "The {} wars,The war,x,1", VERBS[1], VERBS[0]),
        ("clean,corrupted,group,plural", "The {} war,The wars,x,0", VERBS[0], VERBS[1]),
        (
            "clean,corrupted,clean_answer_idx,corrupted_answer_idx,label",
            "The nurse {} slept because,The man slept because,673,339,0",
            [" she"],
            [" he"],
        ),
    ],
    ids=["hypernymy", "facts", "plural", "singular", "gender"],
)
def test_words_of_eap_ig_are_read(tmp_path, smollm2, header, rows, answers, foils):
    """Whatever tokenizer the ids beside them are of."""
    path = tmp_path / "published.csv"
    path.write_text("\n".join([header, *(rows.format(i) for i in "abc")]))
    learn = make_task("custom", smollm2, n=1, path=path).learn
    assert words(smollm2, learn.answers[0]) == answers
    assert words(smollm2, learn.foils[0]) == foils


def test_token_ids_are_taken_where_they_are_said_to_be_the_models(tmp_path, split_digits):
    first, last = (
        split_digits(word, add_special_tokens=False).input_ids for word in (" from", " to")
    )
    text = ["clean,corrupted,correct_idx,incorrect_idx"]
    text += [f"The war of {i},The {i},{first[0]},{last[0]}" for i in range(3)]
    path = tmp_path / "ioi.csv"
    path.write_text("\n".join(text))
    with pytest.raises(
        InputError, match=r"line 2: answers are token ids.*--config\.task\.ids=model"
    ):
        make_task("custom", split_digits, n=1, path=path)
    task = make_task("custom", split_digits, n=1, path=path, ids="model")
    assert (task.learn.answers, task.learn.foils) == ((tuple(first),), (tuple(last),))
    path.write_text("\n".join([*text, "A,B,99999999,3"]))
    with pytest.raises(InputError, match=r"line 5: answer has the token id 99999999"):
        make_task("custom", split_digits, n=1, path=path, ids="model")


def test_years_that_must_be_exceeded(tmp_path, two_digits):
    path = tmp_path / "greater_than_data.csv"
    start = "The war lasted from the year 17{} to the year 17"
    body = [f"{start.format(y)},{start.format('01')},{y}" for y in (52, 97, 13)]
    path.write_text("\n".join(["clean,corrupted,label", *body]))
    task = make_task("custom", two_digits, n=1, path=path, metric="prob_diff")
    for pairs in (task.learn, task.held_out):
        for positive, answers, foils in zip(
            pairs.positives, pairs.answers, pairs.foils, strict=True
        ):
            year = int(re.search(r"17(\d\d) to", positive)[1])
            assert [two_digits.decode([t]) for t in answers] == [
                f"{n:02d}" for n in range(year + 1, 100)
            ]
            assert len(foils) == year + 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("clean,corrupted\nThe war,The", "line 2: lacks the field 'answer'"),
        ("clean,corrupted,answer,foil\nThe,war", "line 2: has not as many columns"),
        ('clean,corrupted,answer,foil\n"The', "line 1: no row of a table"),
        ("clean,corrupted,correct_idx,incorrect_idx\na,b,x,1", "correct_idx is 'x'; allowed are"),
        ("clean,corrupted,label\nto the year 17,to the year 17,99", "the year is 99; allowed"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, split_digits, text, sentence):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence):
        make_task("custom", split_digits, n=1, path=path, ids="model")


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


def test_no_file_and_no_path(tmp_path, split_digits):
    with pytest.raises(InputError, match=r"cannot read .*absent\.jsonl: No such file"):
        make_task("custom", split_digits, path=tmp_path / "absent.jsonl")
    with pytest.raises(InputError, match=r"cannot read .*directory"):
        make_task("custom", split_digits, path=tmp_path)
    with pytest.raises(InputError, match="needs its option path"):
        make_task("custom", split_digits)
