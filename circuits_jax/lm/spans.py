"""Which span every token of a task's prompts is in (`tasks/spans.py` says what spans there are)."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from circuits_jax.decoder.batch import TokenBatch
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.lm.tokenizers import prompt_ids
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import Task
from circuits_jax.tasks.spans import CHANGED, difference_spans, templates_of, text_spans


@dataclasses.dataclass(frozen=True)
class Spans:
    """Spans of B positive prompts.

    Attributes:
        names: of the spans, in the order in which they come.
        of_token: of each token the number of its span; -1 for padding.
    """

    names: tuple[str, ...]
    of_token: Int[np.ndarray, "B T"]

    def inside(self, n_columns: int) -> Bool[np.ndarray, "S B T2"]:
        """Whether tokens are in each span; columns beyond are those of answers, and `last`."""
        missing = n_columns - self.of_token.shape[1]
        last = len(self.names) - 1
        numbers = np.pad(self.of_token, ((0, 0), (0, missing)), constant_values=last)
        return numbers[None] == np.arange(len(self.names))[:, None, None]


def spans_of(
    model: LanguageModel, task: Task, schema: str, sides: tuple[TokenBatch, TokenBatch]
) -> Spans:
    """The spans of the prompts that learn.

    Args:
        model: whose tokens they are.
        task: its `learn` pairs.
        schema: see `tasks/spans.py`.
        sides: the same pairs as `tokenize_pairs` lays them out, of which the first columns are
            looked at.

    Raises:
        InputError: templates that the task does not have, or a prompt that is of none of them.
    """
    templates = templates_of(schema, task.name)
    (tokens, mask), (others, there) = (
        (np.asarray(side.tokens), np.asarray(side.mask)) for side in sides
    )
    names = list(CHANGED if not templates else ())
    of_token = np.full(tokens.shape, -1)
    for row, prompt in enumerate(task.learn.positives):
        real = mask[row]
        if templates:
            own, numbers = _by_template(model, prompt, templates)
            names += [name for name in own if name not in names]
            of_token[row, real] = [names.index(own[i]) for i in numbers]
        else:
            of_token[row, real] = difference_spans(
                ((tokens[row] != others[row]) | ~there[row])[real]
            )
    if templates:
        names.append("last")
        ends = mask.shape[1] - 1 - np.argmax(mask[:, ::-1], axis=1)
        of_token[np.arange(len(mask)), ends] = len(names) - 1
    return Spans(tuple(names), of_token)


def _by_template(
    model: LanguageModel, prompt: str, templates: Sequence[str]
) -> tuple[list[str], list[int]]:
    """Names of spans, and the span of each token: of the first place that it has a letter of."""
    names, of_letter = text_spans(prompt, templates)
    ids = prompt_ids(model.tokenizer, prompt)
    decode = model.tokenizer.decode
    whole = decode(ids)
    before = whole.find(prompt)  # what the tokenizer puts in front
    if before < 0:
        raise InputError(
            f"the tokenizer does not give back the text of the prompt {prompt[:60]!r}, in which "
            "places are looked for; allowed is spans='changed'"
        )
    ends = [len(decode(ids[:n])) - before for n in range(len(ids) + 1)]
    numbers = []
    for start, end in itertools.pairwise(ends):
        own = range(max(start, 0), min(max(end, 1), len(prompt)))
        letters = [i for i in own if not prompt[i].isspace()] or [max(start, 0)]
        found = [int(of_letter[i]) for i in letters]
        places = [n for n in found if n and not names[n].startswith("after ")]
        numbers.append((places or found)[0])
    return names, numbers
