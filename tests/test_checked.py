"""A wrong annotation, or a wrong call, fails while the tests run."""

import numpy as np
import pytest
from jaxtyping import Float, TypeCheckError, jaxtyped

from circuits_jax.evaluation.faithfulness import faithfulness
from foveation_jax.windows.geometry import polar
from tests.checked import checked

THREE, FOUR = np.zeros(3), np.zeros(4)


@jaxtyped(typechecker=checked)
def first(values: Float[np.ndarray, " N"], others: Float[np.ndarray, " N"], *given: int, more=None):
    return values if more is None else more


@jaxtyped(typechecker=checked)
def returned(values: Float[np.ndarray, " N"], what) -> Float[np.ndarray, " N"]:
    return what


@jaxtyped(typechecker=checked)
def nothing(what) -> None:
    return what


@jaxtyped(typechecker=checked)
def bare(what, *others, **more):
    return what


def test_what_is_right_passes():
    assert first(THREE, THREE, 1, more="text") == "text"
    assert returned(THREE, THREE) is THREE
    assert nothing(None) is None
    assert bare("text", 1, more=2) == "text"


@pytest.mark.parametrize(
    ("function", "arguments", "part"),
    [
        (first, (THREE, FOUR), "parameter 'others'"),
        (first, (THREE[None], THREE[None]), "parameter 'values'"),
        (first, (THREE.astype(int), THREE), "parameter 'values'"),
        (first, (THREE, THREE, "many"), "parameter 'given'"),
        (returned, (THREE, FOUR), "the return value"),
        (returned, (THREE, THREE.astype(int)), "the return value"),
        (returned, ("text", THREE), "parameter 'values'"),
        (nothing, (0,), "the return value"),
        (faithfulness, (THREE, "all", 0.0), "parameter 'full'"),  # and so are both packages
        (polar, ("0 to 9", THREE, THREE, 1.0), "parameter 'y'"),
    ],
)
def test_what_is_wrong_is_named(function, arguments, part):
    with pytest.raises(TypeCheckError, match=f"(?s)Type-check error.*{part}"):
        function(*arguments)
