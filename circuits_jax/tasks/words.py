"""The tokenizer of models that are made, not trained: words are tokens, and the truth is known."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace

from circuits_jax.runs.errors import InputError
from circuits_jax.tasks.ground_truth import GroundTruth


@dataclasses.dataclass(frozen=True)
class WordTokenizer:
    """Words between spaces are tokens; a prompt begins with the first word of all, on request.

    Attributes:
        words: V words; the id of a word is its place, and the first begins every prompt.
        program: what the model was made to do, such as "reverse" or "induction".
        truth: the heads and edges that do it; `truth.task` is the task that the model serves.
        uses: which of `truth.graph_edges` the answer hangs on, given the positive and the negative
            prompt of a pair; where that is known.
    """

    words: tuple[str, ...]
    program: str
    truth: GroundTruth
    uses: Callable[[str, str], frozenset[tuple[str, str]]] | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    @functools.cached_property
    def ids(self) -> Mapping[str, int]:
        """Word -> token id."""
        return {word: i for i, word in enumerate(self.words)}

    def __call__(self, text: str, *, add_special_tokens: bool = True):
        """An object whose `input_ids` are the ids of the words of `text`.

        Raises:
            InputError: a word that the model does not know.
        """
        words = text.split()
        for word in words:
            if word not in self.ids:
                raise InputError(
                    f"{self.truth.model} does not know the word {word!r}; its words are "
                    f"{' '.join(self.words)}"
                )
        return SimpleNamespace(input_ids=[0] * add_special_tokens + [self.ids[w] for w in words])

    def decode(self, token_ids: Sequence[int]) -> str:
        """The words of `token_ids`, with spaces between."""
        return " ".join(self.words[i] for i in token_ids)

    def __len__(self) -> int:
        return len(self.words)


def made_for(tokenizer: object, task: str, example: str) -> WordTokenizer:
    """The tokenizer, if it is of a model that was made for the task.

    Raises:
        InputError: it is not; names the task and an `example` of a model that serves it.
    """
    if not isinstance(tokenizer, WordTokenizer) or tokenizer.truth.task != task:
        raise InputError(
            f"task {task!r} needs a model that was made for it, such as {example}; "
            "other models have no part in it"
        )
    return tokenizer
