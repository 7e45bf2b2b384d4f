"""Input that cannot be used, and how the allowed is named."""

import difflib
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """Bad input: one sentence that names the file, field or value and what is allowed.

    The commands print the sentence and end with exit code 2; library code raises it before any
    result is written, so earlier results stay whole.
    """


def check_kind(name: str, given: Any, kind: type, how: str) -> None:
    """Refuse an argument in the place of another.

    Raises:
        InputError: names the argument, what was given and what is allowed.
    """
    if not isinstance(given, kind):
        raise InputError(f"{name} is a {type(given).__name__}; allowed is a {kind.__name__}, {how}")


def unknown_name(what: str, given: str, known: Iterable[str]) -> str:
    """One sentence: the unknown name, the nearest known one where one is near, and all known."""
    known = sorted(known)
    near = difflib.get_close_matches(str(given), known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"unknown {what} {given!r}{hint} allowed: {', '.join(known) or 'none'}"
