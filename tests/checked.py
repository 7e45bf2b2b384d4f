"""How annotations are checked while the tests run: all that beartype would, and nothing twice."""

from typing import Any

from beartype import beartype


def checked(function):
    """Beartype of what jaxtyping asks: the parameters at a call, then they and what is returned.

    The parameters have been looked at by then, and their axes are known to what is returned. Where
    nothing is annotated, as in most functions within functions, there is nothing to make.
    """
    hints = function.__annotations__
    if hints.get("return", Any) is not Any:
        hints = function.__annotations__ = {"return": hints["return"]}
    return function if all(hint is Any for hint in hints.values()) else beartype(function)
