"""Progress with time left: a bar on a terminal, plain log lines elsewhere."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from absl import logging

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
    """A bar with rate and time left on a terminal; elsewhere a line every five seconds or so."""
    from rich import console, progress

    if console.Console(stderr=True).is_terminal:
        yield from progress.track(
            items, description, console=console.Console(stderr=True), transient=True
        )
        return
    start = said = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said > 5 or done == len(items):
            said, left = now, (now - start) / done * (len(items) - done)
            logging.info("%s: %d of %d, %.0f s left", description, done, len(items), left)
