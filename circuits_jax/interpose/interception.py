"""`flax.linen.intercept_methods` that also ends under `python -O`."""

import contextlib
from collections.abc import Iterator

import flax.linen as nn


@contextlib.contextmanager
def intercepted(interceptor: nn.module.Interceptor) -> Iterator[None]:
    """Intercept methods in the block, and no longer.

    Flax takes its interceptor away within an `assert`, which `python -O` leaves out: it would then
    go on to act on every later model.
    """
    before = None if __debug__ else len(nn.module._global_interceptor_stack)
    try:
        with nn.intercept_methods(interceptor):
            yield
    finally:
        while before is not None and len(nn.module._global_interceptor_stack) > before:
            nn.module._global_interceptor_stack.pop()
