"""Files of prompts as people publish them, read as records with our names for their fields.

JSON lines, a JSON array, CSV or TSV with named columns; with a byte-order mark or without. Fields
are ours or those of

    auto-circuit   {"prompts": [{"clean", "corrupt", "answers", "wrong_answers"}]}
    EAP-IG         columns clean, corrupted; answers as token ids (correct_idx, incorrect_idx and
                   the like), or for greater-than the year that the answer must exceed
    MIB            "prompt", "choices", "answerKey", and counterfactual prompts by name
"""

import ast
import csv
import dataclasses
import io
import re
from pathlib import Path
from typing import Any

from circuits_jax.runs.errors import InputError
from circuits_jax.runs.files import parse_json, reason

FIELDS = ("positive", "negative", "answer", "foil")
LONGEST = 2**28  # characters of a file; a file of weights is longer
NAMES = {
    "positive": ("positive", "clean", "prompt"),
    "negative": ("negative", "corrupt", "corrupted", "counterfactual"),
    "answer": ("answer", "answers", "correct_answer"),
    "foil": ("foil", "foils", "wrong_answers", "wrong_answer", "incorrect_answer"),
}
ID_NAMES = {
    "answer": ("correct_idx", "clean_answer_idx", "answers_idx", "country_idx"),
    "foil": (
        "incorrect_idx",
        "corrupted_answer_idx",
        "corrupted_answers_idx",
        "corrupted_country_idx",
    ),
}
MIB_DEFAULT = "s2_io_flip_counterfactual"


@dataclasses.dataclass(frozen=True)
class Record:
    """One entry of a file.

    Attributes:
        where: the file and the line or item, for messages.
        number: of that line or item.
        values: by our names; answers and foils as text, unless `ids` says that they are token ids.
    """

    where: str
    number: int
    values: dict[str, Any]
    ids: bool = False


def read_records(path: Path, counterfactual: str = "", *, foils: bool = True) -> list[Record]:
    """The records of a file.

    Args:
        path: the file.
        counterfactual: which of MIB's counterfactual prompts is the negative; by default that of
            its benchmark, else the first one.
        foils: whether every record needs a foil; else it is None where there is none.

    Raises:
        InputError: no such file, no text, no records, or one that is none of these forms.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read(LONGEST + 1)
    except UnicodeDecodeError as error:
        raise InputError(f"the task file {path} is not UTF-8 text: {error.reason}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the task file {path}: {reason(error)}") from error
    if len(text) > LONGEST:
        raise InputError(f"the task file {path} has more than {LONGEST} characters")
    items = _items(path, text)
    if not items:
        raise InputError(
            f"the task file {path} has no lines; each needs the fields {', '.join(FIELDS)}"
        )
    return [_named(*item, counterfactual, FIELDS if foils else FIELDS[:3]) for item in items]


def _items(path: Path, text: str) -> list[tuple[str, int, Any]]:
    """(where, number, object) of every entry, whatever the form of the file."""
    start = text.lstrip()[:1]
    if start != "{" and (start != "[" or path.suffix in (".csv", ".tsv")):
        header = {name.strip('" ') for name in re.split(r"[,\t]", text.split("\n", 1)[0].strip())}
        if path.suffix in (".csv", ".tsv") or {"clean", "positive"} & header:
            return _rows(path, text)
    whole = _whole(text, start)
    if isinstance(whole, dict) and isinstance(whole.get("prompts"), list):
        whole = whole["prompts"]
    if isinstance(whole, list):
        return [(f"{path}, item {n}", n, item) for n, item in enumerate(whole, start=1)]
    items = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                items.append((where, number, parse_json(line)))
            except ValueError as error:
                raise InputError(f"{where}: not JSON ({reason(error)})") from error
    return items


def _whole(text: str, start: str) -> Any:
    """What the file holds where it is one JSON array, or one object over several lines."""
    first = text.lstrip().split("\n", 1)[0]
    if start == "{":
        try:
            alone = parse_json(first)
        except ValueError:
            alone = {}  # an object that goes on in the next line
        if alone and "prompts" not in alone:
            return None
    elif not re.match(r"\[\s*(\{|$)", first):
        return None
    try:
        return parse_json(text)
    except ValueError:
        return None  # said with its line, when lines are read


def _rows(path: Path, text: str) -> list[tuple[str, int, dict[str, Any]]]:
    """Rows of a table with a line of names."""
    dialect = "excel-tab" if "\t" in text.split("\n", 1)[0] else "excel"
    reader = csv.DictReader(io.StringIO(text), dialect=dialect, strict=True)
    try:
        rows = []
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise InputError(f"{where}: has not as many columns as the first line names")
            rows.append((where, reader.line_num, {k: _cell(v) for k, v in row.items()}))
        return rows
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: no row of a table ({error})") from error


def _cell(value: str) -> Any:
    """A cell: a list where it is written as one."""
    if value.startswith("[") and value.endswith("]"):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return value


def _named(
    where: str, number: int, item: Any, counterfactual: str, needed: tuple[str, ...]
) -> Record:
    """An entry by our names."""
    if not isinstance(item, dict):
        raise InputError(f"{where}: must be a JSON object, got {type(item).__name__}")
    if "choices" in item and "answerKey" in item:
        return Record(where, number, _of_mib(where, item, counterfactual))
    values = {
        ours: item[name]
        for ours, names in reversed(NAMES.items())
        for name in reversed(names)
        if name in item
    }
    ids = {
        ours: _ids(where, name, item[name])
        for ours, names in ID_NAMES.items()
        for name in names
        if name in item and ours not in values
    }
    if set(ids) == {"answer", "foil"}:
        return Record(where, number, values | ids, ids=True)
    year = item.get("label", ids.get("answer", [None])[0])
    if "answer" not in values and year is not None and _ends_in_century(values.get("positive")):
        return Record(where, number, values | _later_years(where, year))
    if "answer" in ids and "foil" not in needed:
        return Record(where, number, {"foil": None} | values | ids, ids=True)
    for field in needed:
        if field not in values:
            raise InputError(f"{where}: lacks the field {field!r}; needed: {', '.join(needed)}")
    return Record(where, number, {"foil": None} | values)


def _ids(where: str, name: str, value: Any) -> list[int]:
    """Token ids, one or a list."""
    given = value if isinstance(value, list) else [value]
    try:
        ids = [int(x) for x in given if not isinstance(x, bool)]
    except (TypeError, ValueError):
        ids = []
    if not ids or len(ids) != len(given) or min(ids) < 0:
        raise InputError(f"{where}: {name} is {value!r:.60}; allowed are token ids, 0 or above")
    return ids


def _ends_in_century(prompt: Any) -> bool:
    """Whether a prompt ends as EAP-IG's greater-than does: "... to the year 17"."""
    return isinstance(prompt, str) and re.search(r"year \d\d$", prompt) is not None


def _later_years(where: str, year: Any) -> dict[str, list[str]]:
    """Answers and foils of two digits: the years after `year`, and the others."""
    try:
        year = int(year)
    except (TypeError, ValueError):
        year = -1
    if not 0 <= year < 99:
        raise InputError(f"{where}: the year is {year}; allowed are 0 to 98")
    digits = [f"{n:02d}" for n in range(100)]
    return {"answer": digits[year + 1 :], "foil": digits[: year + 1]}


def _of_mib(where: str, item: dict[str, Any], counterfactual: str) -> dict[str, Any]:
    """Prompt, counterfactual prompt, the right choice and the others, after a space."""
    known = [name for name in item if name.endswith("_counterfactual")]
    default = MIB_DEFAULT if MIB_DEFAULT in known else (known or [""])[0]
    name = counterfactual or default
    other = item.get(name)
    if not isinstance(other, dict) or "prompt" not in other:
        raise InputError(
            f"{where}: has no counterfactual {name!r}; allowed: {', '.join(known) or 'none'}"
        )
    choices, key = item["choices"], item["answerKey"]
    if isinstance(choices, dict):  # of several answers with a letter before each
        choices = choices.get("label")
    if (
        not isinstance(choices, list)
        or isinstance(key, bool)
        or not isinstance(key, int)
        or not 0 <= key < len(choices)
    ):
        raise InputError(
            f"{where}: answerKey is {key!r:.20}; allowed is the number of one of the choices"
        )
    prompt = item.get("prompt")
    space = "" if isinstance(prompt, str) and prompt.endswith(" ") else " "
    texts = [space + str(choice).lstrip(" ") for choice in choices]
    foils = [text for text in texts if text != texts[key]]
    return {"positive": prompt, "negative": other["prompt"], "answer": texts[key], "foil": foils}
