"""Spans of a prompt: the same few parts of every prompt of a task, whatever its length.

A circuit by token span (arXiv 2502.04577) says of a head also where it matters. Every token of a
prompt is in one span. How prompts are divided is the schema:

    changed     by where the two prompts of a pair differ: `before` the first difference; `changed`,
                what differs or has no partner in the other prompt; `next`, the token after each
                stretch of it; `after`, all others; and the `last` token
    slots       by the places of the task's own templates: each by its name, `after` each what
                follows it, `start` what stands before the first; and the `last` token
    templates   the same of one's own, with names in braces, and | between several:
                "When {first} and {second} went|Then {second} and {first} went"

The last token is `last` and nothing else; tokens of an answer that follow it count with it.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from circuits_jax.runs.errors import InputError
from circuits_jax.tasks.greater_than import TEMPLATE as GREATER_THAN
from circuits_jax.tasks.ioi import TEMPLATES
from circuits_jax.tasks.templates import SPECS

CHANGED = ("before", "changed", "next", "after", "last")
_PLACE = re.compile(r"\{([^{}]+)\}")
SLOTS: Mapping[str, Sequence[str]] = {
    "ioi": TEMPLATES,
    "greater_than": (GREATER_THAN,),
    **{
        name: tuple(_PLACE.sub(r"{place \1}", text) for text in spec.templates)
        for name, spec in SPECS.items()
    },
}


def check_schema(schema: str) -> None:
    """Refuse what is no schema; "" is none.

    Raises:
        InputError: the schema, and what is allowed.
    """
    if schema not in ("", "changed", "slots") and not _PLACE.search(schema):
        raise InputError(
            f"spans is {schema!r}; allowed are changed, slots, and templates with names in braces, "
            "such as 'The {noun} is'"
        )


def templates_of(schema: str, task: str) -> tuple[str, ...]:
    """The templates that a schema has for a task; none where it needs none.

    Raises:
        InputError: the task has none of its own.
    """
    if schema == "changed":
        return ()
    if schema != "slots":
        return tuple(schema.split("|"))
    if task not in SLOTS:
        raise InputError(
            f"spans is 'slots', and task {task!r} has no templates of its own; allowed are "
            f"'changed' and templates with names in braces; with slots: {', '.join(SLOTS)}"
        )
    return tuple(SLOTS[task])


def text_spans(text: str, templates: Sequence[str]) -> tuple[list[str], Int[np.ndarray, " chars"]]:
    """Names of the spans of a text by the first template that it is, and the span of each letter.

    A text around the template, such as that of a chat, counts with what stands first and last in
    it.

    Raises:
        InputError: it is of no template.
    """
    patterns = [_pattern(template) for template in templates]
    whole = (
        (re.fullmatch(p, text, re.DOTALL), t) for p, t in zip(patterns, templates, strict=True)
    )
    within = ((re.search(p, text, re.DOTALL), t) for p, t in zip(patterns, templates, strict=True))
    match, template = next((one for one in (*whole, *within) if one[0]), (None, ""))
    if match is None:
        shown = ", ".join(map(repr, templates[:3]))
        raise InputError(f"the prompt {text[:60]!r} is of none of the templates {shown}")
    names, spans = ["start"], np.zeros(len(text), int)
    for number, name in enumerate(_PLACE.findall(template), start=1):
        first, end = match.span(number)
        for told, start in ((name, first), (f"after {name}", end)):
            if told not in names:
                names.append(told)
            spans[start:] = names.index(told)
    return names, spans


def _pattern(template: str) -> str:
    pieces = _PLACE.split(template)  # texts and names in turn
    return "(.+?)".join(re.escape(text) for text in pieces[::2])


def difference_spans(
    differs: Sequence[bool] | np.ndarray,
) -> Int[np.ndarray, " tokens"]:
    """The span, as a number in `CHANGED`, of each token of a prompt, given which ones differ."""
    differs = np.asarray(differs, bool)
    after_one = np.append(False, differs[:-1])
    seen = np.cumsum(differs) > 0
    spans = np.select([differs, after_one, seen], [1, 2, 3], 0)
    spans[-1] = 4
    return spans
