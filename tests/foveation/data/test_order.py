"""Order of images: permutations that depend on (seed, run, epoch) alone, and their stream."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveation_jax import InputError
from foveation_jax.data import LabelledImages, batches, steps_an_epoch
from foveation_jax.data.order import batch_indices, epoch_order

small = st.integers(0, 5)


def _labelled(offset: int = 0, count: int = 11) -> LabelledImages:
    """Images that say by their first level which they are."""
    images = np.zeros((count, 2, 2, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(count) + offset
    return LabelledImages(images, np.arange(count, dtype=np.int32) % 3, ("a", "b", "c"))


@given(seed=st.integers(0, 2**40), run=small, epoch=small, count=st.integers(1, 200))
def test_order_is_a_permutation_and_a_function_of_its_arguments(seed, run, epoch, count):
    order = epoch_order(seed, run, epoch, count)
    np.testing.assert_array_equal(np.sort(order), np.arange(count))
    np.testing.assert_array_equal(order, epoch_order(seed, run, epoch, count))


def test_orders_of_seeds_runs_and_epochs_differ():
    arguments = list(itertools.product(range(3), range(3), range(3)))
    orders = {tuple(epoch_order(*which, 50)) for which in arguments}
    assert len(orders) == len(arguments)


@given(
    n_runs=st.integers(1, 4), batch=st.integers(1, 9), extra=st.integers(0, 20), epoch=small,
    seed=small,
)  # fmt: skip
def test_no_run_sees_an_image_twice_in_an_epoch(n_runs, batch, extra, epoch, seed):
    count = batch + extra
    steps = steps_an_epoch(count, batch)
    seen = [
        batch_indices(seed, n_runs, batch, count, step)
        for step in range(epoch * steps, (epoch + 1) * steps)
    ]
    for run, order in enumerate(np.concatenate(seen, axis=1)):
        np.testing.assert_array_equal(order, epoch_order(seed, run, epoch, count)[: len(order)])
        assert len(np.unique(order)) == len(order) == count - count % batch


def test_a_run_does_not_depend_on_how_many_there_are():
    few, many = (batch_indices(0, n_runs, 4, 11, 7) for n_runs in (2, 5))
    np.testing.assert_array_equal(many[:2], few)


def test_batches_hold_the_images_and_labels_of_their_indices():
    stream = batches(_labelled(), 3, 2, 4, 0)
    for step, (images, labels) in enumerate(itertools.islice(stream, 5)):
        chosen = batch_indices(3, 2, 4, 11, step)
        assert images.shape == (2, 4, 2, 2, 3)
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(images[..., 0, 0, 0], chosen)
        np.testing.assert_array_equal(labels, chosen % 3)
        assert labels.dtype == np.int32
    stream.close()


@settings(deadline=None, max_examples=10)
@given(start=st.integers(0, 30))
def test_resumed_stream_is_the_rest_of_the_undisturbed_one(start):
    whole, rest = batches(_labelled(), 0, 2, 3, 0), batches(_labelled(), 0, 2, 3, start)
    expected = itertools.islice(whole, start, start + 4)
    for (images, labels), (images_again, labels_again) in zip(expected, rest, strict=False):
        np.testing.assert_array_equal(images_again, images)
        np.testing.assert_array_equal(labels_again, labels)
    whole.close()
    rest.close()


def test_a_far_step_costs_no_more_than_a_near_one():
    stream = batches(_labelled(), 0, 2, 4, 10**12)
    images, _ = next(stream)
    np.testing.assert_array_equal(images[..., 0, 0, 0], batch_indices(0, 2, 4, 11, 10**12))
    stream.close()


def test_systems_see_their_images_in_the_same_order():
    reference, blur = (batches(_labelled(offset), 0, 3, 4, 2) for offset in (0, 100))
    for (images, labels), (blurred, labels_again) in itertools.islice(zip(reference, blur), 6):  # noqa: B905
        np.testing.assert_array_equal(blurred[..., 0, 0, 0], images[..., 0, 0, 0] + 100)
        np.testing.assert_array_equal(labels_again, labels)
    reference.close()
    blur.close()


def test_fewer_images_than_the_batch_are_refused():
    with pytest.raises(InputError, match=r"batch_size is 12: .* no more than the 11 training"):
        batches(_labelled(), 0, 2, 12, 0)
    with pytest.raises(InputError, match="batch_size is 0"):
        steps_an_epoch(11, 0)
    assert steps_an_epoch(11, 11) == 1
