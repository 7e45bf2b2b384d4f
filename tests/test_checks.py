"""What is allowed, and the sentence where something else is given, in both packages."""

import dataclasses
import importlib
import math
from typing import Literal

import ml_collections
import numpy as np
import pytest

Kind = Literal["hard", "soft"]


@pytest.fixture(params=("circuits_jax", "foveation_jax"))
def checks(request):
    return importlib.import_module(f"{request.param}.runs.checks")


@dataclasses.dataclass
class Options:
    """Of a method."""

    kind: Kind = "hard"
    steps: int = 3


@pytest.mark.parametrize(
    ("limits", "said", "inside", "outside"),
    [
        ({"least": 1}, "1 and above", [1, 2.5, np.int64(7)], [0, -math.inf]),
        ({"least": 0, "open": (0,)}, "above 0", [1e-9, 4], [0, 0.0, -1]),
        ({"least": 0, "most": 1}, "0 to 1", [0, 1, np.float32(0.5)], [-1e-9, 1.1]),
        ({"least": 0, "most": 1, "open": (1,)}, "0 to below 1", [0, 0.9], [1, 1.0]),
        ({"least": 0, "most": 1, "open": (0, 1)}, "above 0 to below 1", [0.5], [0, 1]),
        ({"least": 2, "most": 5, "whole": True}, "a whole number, 2 to 5", [2, 5.0], [2.5, 6]),
    ],
)
def test_ranges(checks, limits, said, inside, outside):
    allowed = checks.Range(**limits)
    assert str(allowed) == said
    assert all(value in allowed for value in inside)
    for value in [*outside, math.nan, math.inf, "1", None, "", [1]]:
        assert value not in allowed, value


@pytest.mark.parametrize(
    ("value", "names", "sentence"),
    [
        ("soft", None, "x is 'soft'; allowed is 0 to 3"),
        (4, None, "x is 4; allowed is 0 to 3"),
        ((1, 4, 5), None, "x has 4; allowed is 0 to 3"),
        (math.nan, None, "x is nan; allowed is 0 to 3"),
        ("sof", ("hard", "soft"), "x is 'sof'; allowed are hard, soft"),
        (["hard", 3], {"hard": 1, "soft": 2}, "x has 3; allowed are hard, soft"),
        (None, ("hard", "soft"), "x is None; allowed are hard, soft"),
    ],
)
def test_the_sentence(checks, value, names, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$") as caught:
        checks.check_allowed("x", value, names or checks.Range(0, 3))
    assert type(caught.value).__name__ == "InputError"


def test_fields_by_dotted_names_and_literals(checks):
    config = ml_collections.ConfigDict({"fit": {"steps": 0, "rates": (0.1, 2.0)}})
    limits = {"fit.steps": checks.Range(0), "fit.rates": checks.Range(0, 1)}
    with pytest.raises(ValueError, match=r"^config\.fit\.rates has 2\.0; allowed is 0 to 1$"):
        checks.check_all(config, limits, "config.")
    checks.check_all(config, {"fit.steps": checks.Range(0)})
    with pytest.raises(ValueError, match=r"^kind is 'mild'; allowed are hard, soft$"):
        checks.check_all(Options("mild"), {})
    with pytest.raises(ValueError, match=r"^steps is 0; allowed is 1 and above$"):
        checks.check_all(Options(steps=0), {"steps": checks.Range(1)})
    checks.check_all(Options(), {"steps": checks.Range(1)})
