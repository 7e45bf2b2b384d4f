"""Results of little meaning, told as Python tells warnings."""

import warnings
from collections.abc import Iterable


class TaskWarning(UserWarning):
    """Results that are right as computed, but may say nothing about the task: why, in a sentence.

    The commands write the same sentences into their results, where the finding is stated.
    """


def warn(sentences: Iterable[str]) -> None:
    """A `TaskWarning` for each sentence, at the line that called the library's function."""
    for sentence in sentences:
        warnings.warn(sentence, TaskWarning, stacklevel=3)
