"""Batteries on disk: read back as they were, or refused in a sentence."""

import random

import numpy as np
import pytest

from foveation_jax import InputError
from foveation_jax.probes.battery import Battery, load_battery, save_battery
from foveation_jax.probes.curves import Confusion, Curve

LEVELS = np.array([np.inf, 3.0, 1.0])
ACCURACY = np.random.default_rng(0).random((2, 3))
COUNTS = np.arange(8).reshape(2, 2, 2)
MADE_OF = {"weights": {"d/1": 7}, "n_images": 3}


def battery(accuracy=ACCURACY):
    curves = (Curve("frequency/high_pass_grey", "raw", LEVELS, accuracy),)
    return Battery(curves, (Confusion("raw", "raw", COUNTS),))


def test_a_battery_comes_back_and_belongs_to_what_it_was_made_of(tmp_path):
    path = tmp_path / "probes" / "x.npz"
    save_battery(battery(), path, MADE_OF)
    for made_of in (None, MADE_OF):
        (curve,), (matrix,) = (lambda b: (b.curves, b.confusion))(
            load_battery(path, "raw", made_of)
        )
        np.testing.assert_array_equal(curve.accuracy, ACCURACY)
        np.testing.assert_array_equal(curve.levels, LEVELS)
        np.testing.assert_array_equal(matrix.counts, COUNTS)
    with pytest.raises(InputError, match="holds other probes, or of other networks or images"):
        load_battery(path, "raw", MADE_OF | {"n_images": 4})
    assert [p.name for p in path.parent.iterdir()] == ["x.npz"]


def test_any_damage_is_one_sentence_or_harmless(tmp_path):
    """Two hundred changes of one bit, cuts and additions at random places."""
    path, random_ = tmp_path / "x.npz", random.Random(0)
    save_battery(battery(), path, MADE_OF)
    whole, refused = path.read_bytes(), 0
    for _ in range(200):
        at = random_.randrange(len(whole))
        flipped = whole[:at] + bytes([whole[at] ^ 1 << random_.randrange(8)]) + whole[at + 1 :]
        path.write_bytes(random_.choice([flipped, flipped, whole[:at], random_.randbytes(at)]))
        sentence = ""
        try:
            curve = load_battery(path, "raw", MADE_OF).curves[0]
        except InputError as error:
            sentence = str(error)
        if sentence:
            assert "x.npz" in sentence
            refused += 1
        else:  # a date within the archive, say
            np.testing.assert_array_equal(curve.accuracy, ACCURACY)
            np.testing.assert_array_equal(curve.levels, LEVELS)
    assert refused > 100


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_accuracy_that_is_no_number_is_named(tmp_path, value):
    accuracy = ACCURACY.copy()
    accuracy[1, 2] = value
    with pytest.raises(InputError, match=r"accuracy:frequency/high_pass_grey, run 1, is not a fin"):
        save_battery(battery(accuracy), tmp_path / "x.npz")
    assert not list(tmp_path.iterdir())
    path = tmp_path / "y.npz"  # as another program may write it
    save_battery(battery(), path)
    arrays = dict(np.load(path)) | {"accuracy:frequency/high_pass_grey": accuracy}
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=r"y\.npz is damaged or missing \(its checksums do not"):
        load_battery(path, "raw")
