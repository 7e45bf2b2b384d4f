"""What values are allowed, declared; the first that is not becomes one sentence."""

import dataclasses
import math
import operator
from collections.abc import Collection, Mapping
from typing import Any, Literal, get_args, get_origin

from foveation_jax.runs.errors import InputError


@dataclasses.dataclass(frozen=True)
class Range:
    """Finite numbers from `least` to `most`.

    Attributes:
        least, most: the ends.
        open: ends that are not allowed themselves.
        whole: whether numbers must be whole.
    """

    least: int | float = -math.inf
    most: int | float = math.inf
    open: tuple[int | float, ...] = ()
    whole: bool = False

    def __contains__(self, value: Any) -> bool:
        try:
            inside = self.least <= value <= self.most and math.isfinite(value)
            return bool(inside) and value not in self.open and not (self.whole and value % 1)
        except (TypeError, ValueError):  # no number
            return False

    def __str__(self) -> str:
        low = f"above {self.least}" if self.least in self.open else f"{self.least}"
        high = f" to {'below ' if self.most in self.open else ''}{self.most}"
        if self.most == math.inf:
            high = "" if self.least in self.open else " and above"
        return f"{'a whole number, ' if self.whole else ''}{low}{high}"


Allowed = Range | Collection[str]


def check_allowed(field: str, value: Any, allowed: Allowed) -> None:
    """Refuse a value, or the first of a list or tuple of them, that is not allowed.

    Raises:
        InputError: names the field, the value and what is allowed.
    """
    several, names = isinstance(value, list | tuple), not isinstance(allowed, Range)
    told = f"is {allowed}" if isinstance(allowed, Range) else f"are {', '.join(allowed)}"
    for one in value if several else [value]:
        if (names and not isinstance(one, str)) or one not in allowed:
            shown = repr(one) if isinstance(one, str) else one
            raise InputError(f"{field} {'has' if several else 'is'} {shown}; allowed {told}")


def check_all(record: Any, limits: Mapping[str, Allowed], prefix: str = "") -> None:
    """`check_allowed` of fields of a config or dataclass, by dotted names after a `prefix`.

    Fields that a dataclass annotates as `Literal` are checked as well.
    """
    literals = {}
    if dataclasses.is_dataclass(record):
        fields = dataclasses.fields(record)
        literals = {f.name: get_args(f.type) for f in fields if get_origin(f.type) is Literal}
    for name, allowed in (literals | dict(limits)).items():
        check_allowed(prefix + name, operator.attrgetter(name)(record), allowed)
