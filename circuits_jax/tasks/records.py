"""Files of prompts as people publish them, read as records with our names for their fields.

JSON lines, a JSON array, CSV or TSV with named columns; with a byte-order mark or without. Fields
are ours or those of

    auto-circuit   {"prompts": [{"clean", "corrupt", "answers", "wrong_answers"}]}
    EAP-IG         columns clean, corrupted; answers as words where it has them (hypernymy, facts),
                   as what decides them (the year that greater-than must exceed, plural or not, the
                   gender of a profession), else as token ids (correct_idx, incorrect_idx)
    MIB            "prompt", counterfactual prompts by name, and "choices" with "answerKey", or a
                   "label" (arithmetic)
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
MISSING = {"answer": None, "foil": None}
MIB_DEFAULTS = ("s2_io_flip", "symbol", "random")  # of IOI, multiple choice and arithmetic
EAP_IG_WORDS = (("answers", "corrupted_answers"), ("country", "corrupted_country"))
VERBS = ([" is", " was", " has", " does"], [" are", " were", " have", " do"])
PRONOUNS = ([" she"], [" he"])


@dataclasses.dataclass(frozen=True)
class Record:
    """One entry of a file.

    Attributes:
        where: the file and the line or item, for messages.
        number: of that line or item.
        values: by our names; answers and foils as text, unless `ids` says that they are token ids.
        unfit: why the entry cannot be used, where it is one of its kind all the same.
    """

    where: str
    number: int
    values: dict[str, Any]
    ids: bool = False
    unfit: str = ""


def read_records(
    path: Path, counterfactual: str = "", needed: tuple[str, ...] = FIELDS
) -> list[Record]:
    """The records of a file.

    Args:
        path: the file.
        counterfactual: which of MIB's counterfactual prompts is the negative; by default that of
            its benchmark, else the first one.
        needed: fields that every record needs. A foil may else be missing, and is None; without the
            answer among them, answers and foils are not looked at.

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
    records = [_named(*item, counterfactual, needed) for item in items]
    if "answer" in needed:
        return records
    return [dataclasses.replace(r, values=r.values | MISSING, ids=False) for r in records]


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
    of_choices = {"choices", "answerKey"} <= set(item)
    if of_choices or any(name.endswith("_counterfactual") for name in item):
        return _of_mib(where, number, item, counterfactual)
    values = _of_eap_ig(item) or {
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
    deciding = None if {"answer", "foil"} <= set(values) else _deciding(item)
    if deciding:
        return Record(where, number, values | deciding)
    if set(ids) == {"answer", "foil"}:
        return Record(where, number, values | ids, ids=True)
    year = item.get("label", ids.get("answer", [None])[0])
    if "answer" not in values and year is not None and _ends_in_century(values.get("positive")):
        return Record(where, number, values | _later_years(where, year))
    if "answer" in ids and "foil" not in needed:
        return Record(where, number, MISSING | values | ids, ids=True)
    for field in needed:
        if field not in values:
            without = "; the metrics log_prob, rank and kl need no foils" * (field == "foil")
            raise InputError(
                f"{where}: lacks the field {field!r}; needed: {', '.join(needed)}{without}"
            )
    return Record(where, number, MISSING | values)


def _ids(where: str, name: str, value: Any) -> list[int]:
    """Token ids, one or a list."""
    given = value if isinstance(value, list) else [value]
    try:
        ids = [int(x) for x in given if not isinstance(x, bool) and float(x).is_integer()]
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


def _of_eap_ig(item: dict[str, Any]) -> dict[str, Any]:
    """Words of EAP-IG's hypernymy and facts, after a space; what is in both cancels out there."""
    if not {"clean", "corrupted"} <= set(item):
        return {}
    for names in EAP_IG_WORDS:
        if all(item.get(name) for name in names):
            lists = [x if isinstance(x, list) else [x] for x in map(item.get, names)]
            sides = [[_spaced(item["clean"], str(word)) for word in words] for words in lists]
            answer, foil = ([x for x in a if x not in b] for a, b in (sides, sides[::-1]))
            prompts = {"positive": item["clean"], "negative": item["corrupted"]}
            return prompts | {"answer": answer, "foil": foil}
    return {}


def _deciding(item: dict[str, Any]) -> dict[str, Any] | None:
    """Answers and foils of EAP-IG's agreement and gender bias, from the column that decides."""
    if not {"clean", "corrupted"} <= set(item):
        return None
    if "plural" in item:
        sides, second = VERBS, item["plural"]
    elif {"label", "clean_answer_idx", "corrupted_answer_idx"} <= set(item):
        sides, second = PRONOUNS, item["label"]
    else:
        return None
    if str(second) not in ("0", "1"):
        return None
    answer, foil = sides[::-1] if str(second) == "1" else sides
    return {"answer": answer, "foil": foil}


def _spaced(prompt: Any, word: str) -> str:
    """A word as it stands after a prompt: with a space, unless one is there or none belongs."""
    ends = isinstance(prompt, str) and prompt.endswith((" ", "="))
    return word.lstrip(" ") if ends else " " + word.lstrip(" ")


def _of_mib(where: str, number: int, item: dict[str, Any], counterfactual: str) -> Record:
    """Prompt and counterfactual prompt; the answer of the one, and of the other as the foil.

    Where both have the same answer, the foils are the other choices.
    """
    known = [name for name in item if name.endswith("_counterfactual")]
    defaults = [f"{name}_counterfactual" for name in MIB_DEFAULTS]
    name = counterfactual or next((name for name in defaults if name in known), (known or [""])[0])
    if name not in known:
        raise InputError(
            f"{where}: has no counterfactual {name!r}; allowed: {', '.join(known) or 'none'}"
        )
    other, prompt = item[name], item.get("prompt")
    values = {"positive": prompt} | MISSING
    if not isinstance(other, dict) or not other.get("prompt"):
        return Record(where, number, values, unfit=f"its {name} is empty")
    answer, foils = _mib_answers(where, item)
    own = _mib_answers(f"{where}, {name}", other)[0] if _has_answer(other) else answer
    foils = [own] if own != answer else foils
    if not foils:
        return Record(where, number, values, unfit=f"its {name} has the same answer, {answer!r}")
    answer, *foils = (_spaced(prompt, text) for text in (answer, *foils))
    values = {"positive": prompt, "negative": other["prompt"], "answer": answer, "foil": foils}
    return Record(where, number, values)


def _has_answer(item: dict[str, Any]) -> bool:
    return {"choices", "answerKey"} <= set(item) or "label" in item


def _mib_answers(where: str, item: dict[str, Any]) -> tuple[str, list[str]]:
    """The right answer, and the others that there are to choose from."""
    if "choices" not in item:
        if not isinstance(item.get("label"), str | int | float):
            raise InputError(f"{where}: lacks the field 'label', or 'choices' and 'answerKey'")
        return str(item["label"]).strip(), []
    choices, key = item["choices"], item.get("answerKey")
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
    texts = [str(choice).strip() for choice in choices]
    return texts[key], [text for text in texts if text != texts[key]]
