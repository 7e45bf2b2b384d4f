"""How far a long stage is: a bar with rate and time left on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

SECONDS_BETWEEN_LINES = 10


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function to call with the number of items that are done since its last call."""
    reporter = _bar if sys.stderr.isatty() else _lines
    with reporter(what, total) as advance:
        yield advance


@contextlib.contextmanager
def _bar(what, total):
    from rich import progress as bars
    from rich.console import Console

    class _Rate(bars.ProgressColumn):
        def render(self, task):
            return f"{task.speed:.1f}/s" if task.speed else ""

    columns = (
        bars.TextColumn("{task.description:>10}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        _Rate(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


@contextlib.contextmanager
def _lines(what, total):
    start = last = time.monotonic()
    done = 0

    def line():
        rate = done / max(time.monotonic() - start, 1e-9)
        speed = f", {rate:.1f}/s, {(total - done) / rate:.0f} s left" if done else ""
        print(f"{what}: {done}/{total}{speed}", file=sys.stderr, flush=True)

    def advance(count):
        nonlocal done, last
        done += count
        if time.monotonic() - last > SECONDS_BETWEEN_LINES and done < total:
            last = time.monotonic()
            line()

    yield advance
    print(
        f"{what}: {done}/{total} in {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True
    )
