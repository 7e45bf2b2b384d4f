"""One hot program of either library: what is compiled, and for which shapes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Program:
    """A row of a table.

    Attributes:
        function: to be compiled.
        arguments: `jax.ShapeDtypeStruct`s, with places where they are not to be chosen.
        science: all its products are float32; else they are of training.
        one_by_one: lengths that no loop may have: of images or heads, which are worked on together.
        donated: which arguments may be overwritten.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    science: bool = True
    one_by_one: tuple[int, ...] = ()
    donated: tuple[int, ...] = ()

    def traced(self):
        """Traced once, to be lowered for any platform."""
        return jax.jit(self.function, donate_argnums=self.donated).trace(*self.arguments)
