"""Loops that may show how far they are."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from circuits_jax.runs.progress import progress

T = TypeVar("T")


@runtime_checkable
class Track(Protocol):
    """Something that yields the items it is given and may show how far it is."""

    def __call__(self, items: Sequence[T], description: str) -> Iterable[T]:
        """Yield every item."""


def silent(items: Sequence[T], description: str) -> Iterable[T]:
    """No progress is shown."""
    del description
    return items


def shown(items: Sequence[T], description: str) -> Iterator[T]:
    """`runs.progress`, an item at a time."""
    with progress(description, len(items)) as advance:
        for item in items:
            yield item
            advance(1)
