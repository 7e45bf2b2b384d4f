"""Batches that a decoder learns from: what cannot be read is told, and nothing grey is there."""

import itertools

import numpy as np
import pytest

from foveation_jax.data.sources import ImageSource
from foveation_jax.jobs.train_decoder import training_batches
from foveation_jax.runs.errors import InputError


def source(broken):
    """Six pictures, each of one level of its own, of which some cannot be read."""

    def read(index):
        if index in broken:
            raise InputError(f"picture {index} is no picture.")
        return np.full((16, 16, 3), index / 20, np.float32)

    names = tuple(f"p{index}" for index in range(6))
    return ImageSource(names, np.zeros(6, np.int32), (), read)


def test_others_stand_in_for_what_cannot_be_read(capsys):
    batches = training_batches(source({1, 4}), (16, 16), 3, 0, 0)
    levels = np.stack([batch[:, 0, 0, 0] for batch in itertools.islice(batches, 8)])
    assert levels.shape == (8, 3)
    assert set(np.round(levels.ravel() * 20)) == {0, 2, 3, 5}
    said = capsys.readouterr().err
    assert [said.count(f"picture {index} is no picture. It is left out.") for index in (1, 4)] == [
        1,
        1,
    ]


def test_where_nothing_can_be_read_it_ends():
    with pytest.raises(InputError, match=r"no file can be read; picture . is no picture"):
        list(itertools.islice(training_batches(source(set(range(6))), (16, 16), 3, 0, 0), 9))
