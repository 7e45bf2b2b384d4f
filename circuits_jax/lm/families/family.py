"""What a family is: how its config reads, and where its weights are."""

import dataclasses
from collections.abc import Callable
from typing import Any

from circuits_jax.lm.families.configs import Fields
from circuits_jax.lm.families.tensors import Row


@dataclasses.dataclass(frozen=True)
class Family:
    """A model type of Hugging Face.

    Attributes:
        read: config.json -> the fields of `DecoderConfig`.
        rows: where each parameter is; rows that a config does not need are passed over.
        norms_from_one: RMS norms multiply by 1 + the stored weight (Gemma).
        pairs_in_turn: rotary pairs are stored as components 2 i and 2 i + 1 of a head, where ours
            are i and i + rotary_width / 2; scores do not depend on the order of components.
        multipliers: config.json -> factors of what a model multiplies on its way, by the start of
            the path of the parameters that take them in. What is linear may be multiplied before.
    """

    read: Callable[[Fields], dict[str, Any]]
    rows: tuple[Row, ...]
    norms_from_one: bool = False
    pairs_in_turn: bool = False
    multipliers: Callable[[Fields], dict[str, float]] = lambda fields: {}
