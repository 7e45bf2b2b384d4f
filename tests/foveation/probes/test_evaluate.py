"""The evaluator, with networks whose answers are known: each reads the colour of one place."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import foveation_jax as fj
from foveation_jax import metrics
from foveation_jax.probes import cue_conflict, evaluate, generalization, perceptual

CODES = np.array([0, 60, 200, 250], np.uint8)  # class -> grey level of its images
SIDE, EACH = 32, 5
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), EACH))
FLAT = np.broadcast_to(CODES[LABELS][:, None, None, None], (len(LABELS), SIDE, SIDE, 3)).copy()
PLACES = np.array([[SIDE // 2, SIDE // 2], [SIDE - 1, SIDE // 8]])  # run 0 the centre, 1 the edge


@jax.jit
def predict(images):
    """Two runs: the class whose level is nearest to the pixel at the run's place."""
    seen = images[:, PLACES[:, 0], PLACES[:, 1]].astype(jnp.float32).mean(-1).T  # [V, N]
    return -jnp.abs(seen[:, :, None] - CODES.astype(np.float32)[None, None])


@functools.cache
def curves():
    found = evaluate.evaluate(predict, "reference", FLAT, LABELS, batch_size=8)
    return {curve.probe: curve for curve in found}


def test_every_probe_gives_its_curves_with_published_levels():
    names = []
    for name, probe in evaluate.PROBES.items():
        names += [f"{name}/centre", f"{name}/periphery"] if probe.decoys else [name]
    assert list(curves()) == names
    assert sum(c.levels.size for c in curves().values()) == 125 + 8 + 17
    assert {c.system for c in curves().values()} == {"reference"}
    assert curves()["frequency/high_pass_grey"].levels[0] == np.inf
    np.testing.assert_array_equal(
        curves()["frequency/low_pass_colour"].levels, [0, 1, 3, 5, 7, 9, 15, 40]
    )
    for name, curve in curves().items():
        expected = 0 if name.endswith("/centre") else 1
        np.testing.assert_array_equal(curve.accuracy[:, 0], expected)


def test_networks_lose_what_is_hidden_from_their_place():
    quarter = 0.25  # grey looks like one of the four classes
    expected = {
        "occlusion/scotoma": ([1] + [quarter] * 16, [1] * 16 + [quarter]),
        "occlusion/glaucoma": ([1] * 16 + [quarter], [1] + [quarter] * 16),
        # The centre is column 16 of 32, the other place column 4, the last row.
        "occlusion/left_to_right": ([1] * 9 + [quarter] * 8, [1] * 3 + [quarter] * 14),
        "occlusion/top_to_bottom": ([1] * 9 + [quarter] * 8, [1] * 16 + [quarter]),
        "window_conflict/centre": ([0] + [1] * 7, [0] * 7 + [1]),
        "window_conflict/periphery": ([1] + [0] * 7, [1] * 7 + [0]),
        "square_conflict/centre": ([0] + [1] * 16, [0] * 16 + [1]),
        "square_conflict/periphery": ([1] + [0] * 16, [1] * 16 + [0]),
        "frequency/low_pass_colour": ([1] * 8, [1] * 8),
        "frequency/low_pass_grey": ([1] * 8, [1] * 8),
        "frequency/high_pass_colour": ([1] + [quarter] * 7, [1] + [quarter] * 7),
        "frequency/high_pass_grey": ([1] + [quarter] * 7, [1] + [quarter] * 7),
    }
    assert expected.keys() == curves().keys()
    for name, accuracy in expected.items():
        np.testing.assert_array_equal(curves()[name].accuracy, accuracy, err_msg=name)


@pytest.mark.parametrize(("batch_size", "expected"), [(8, (7, 7, 7)), (64, (20,))])
def test_batches_have_one_shape_and_do_not_matter(batch_size, expected):
    sizes = []

    def counted(images):
        sizes.append(len(images))
        return predict(images)

    (curve,) = evaluate.evaluate(
        counted, "reference", FLAT, LABELS,
        probes=("occlusion/left_to_right",), every=16, batch_size=batch_size,
    )  # fmt: skip
    assert sorted(sizes) == sorted(2 * expected)
    whole = curves()["occlusion/left_to_right"]
    np.testing.assert_array_equal(curve.levels, whole.levels[[0, 16]])
    np.testing.assert_array_equal(curve.accuracy, whole.accuracy[:, [0, 16]])


def test_answers_keep_images_levels_and_runs_apart():
    def named(images):
        return jax.nn.one_hot(jnp.stack([images[:, 0, 0, 0], images[:, 0, 0, 1]]), 100)

    def stimuli(rows):
        for level in range(3):
            shown = np.zeros((len(rows), 1, 1, 3), np.uint8)
            shown[..., 0], shown[..., 1] = rows[:, None, None], 10 * level
            yield jnp.asarray(shown)

    done = []
    answers = evaluate.answers(named, stimuli, 7, 3, done.append)
    np.testing.assert_array_equal(answers[0], np.tile(np.arange(7), (3, 1)))
    np.testing.assert_array_equal(answers[1], np.repeat([[0], [10], [20]], 7, 1))
    assert sum(done) == 21


def test_fewer_levels_and_images():
    assert evaluate.thin(17, 4) == [0, 4, 8, 12, 16]
    assert evaluate.thin(8, 4) == [0, 4, 7]
    assert evaluate.thin(8, 1) == list(range(8))
    rows = evaluate.first_of_each_class(LABELS, 2)
    assert (np.bincount(LABELS[rows]) == 2).all()
    first = [np.flatnonzero(c == LABELS)[:2] for c in range(4)]
    np.testing.assert_array_equal(rows, np.sort(np.concatenate(first)))
    wrong = FLAT.copy()
    wrong[rows] = FLAT[rows[0]]  # only these are looked at
    (curve,) = evaluate.evaluate(
        predict, "raw", wrong, LABELS,
        probes=("occlusion/left_to_right",), every=16, n_images=2, batch_size=8,
    )  # fmt: skip
    np.testing.assert_array_equal(curve.accuracy[:, 0], 0.25)


def test_shown_stimuli_are_8_bit_levels_of_the_pure_functions():
    levels = np.random.default_rng(1).integers(0, 256, (7, SIDE, SIDE, 3), np.uint8)
    decoys, windows = levels[::-1].copy(), cue_conflict.default_windows((SIDE, SIDE))
    mean = jnp.asarray(evaluate.mean_colour(levels), jnp.float32)
    pixels, others = levels / np.float32(255), decoys / np.float32(255)
    shown = evaluate.show("window_conflict", levels, np.int64(4), decoys, mean, windows)
    expected = jax.jit(fj.probes.window_conflict)(pixels, others, 4)
    assert shown.dtype == np.uint8
    np.testing.assert_allclose(shown, 255 * expected, atol=0.501)
    shown = evaluate.show(
        "frequency/high_pass_colour", levels, np.float64(1), decoys, mean, windows
    )
    expected = jax.jit(fj.probes.high_pass)(pixels, 1.0, mean)
    # Two programs may round a value halfway between two levels, 123.500 here, either way.
    off = np.abs(np.asarray(shown) - 255 * np.asarray(expected))
    assert off.max() < 1.01
    assert (off > 0.01).mean() < 1e-3
    np.testing.assert_allclose(mean, (levels / 255).mean((0, 1, 2)), rtol=1e-5)


def test_generalization_counts_every_answer():
    seen = {"reference": FLAT, "uniform_blur": FLAT[::-1].copy()}
    found, confusions = generalization.generalize(predict, "reference", seen, LABELS, 4, 8)
    assert [c.probe for c in found] == ["generalization/reference", "generalization/uniform_blur"]
    for curve, confusion in zip(found, confusions, strict=True):
        counts = confusion.counts
        np.testing.assert_array_equal(counts.sum(2), EACH)
        trace = np.trace(counts, axis1=1, axis2=2)
        np.testing.assert_allclose(curve.accuracy[:, 0], trace / counts.sum((1, 2)))
    np.testing.assert_array_equal(
        confusions[0].counts, np.broadcast_to(EACH * np.eye(4), (2, 4, 4))
    )
    crossed = np.zeros((4, 4), int)
    np.add.at(crossed, (LABELS, LABELS[::-1]), 1)
    np.testing.assert_array_equal(confusions[1].counts[1], crossed)


def test_panel_measures_image_by_image():
    reference = np.random.default_rng(2).integers(0, 256, (5, 24, 24, 3), np.uint8)
    system = reference.copy()
    system[1:] //= 2
    panel = perceptual.perceptual_panel(reference, system, batch_size=2)
    a, b = (jnp.asarray(levels / np.float32(255)) for levels in (system, reference))
    for name, values in panel.items():
        expected = metrics.METRICS[name](a, b)
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-12, err_msg=name)
    assert panel["ssim"][0] == pytest.approx(1)
    assert (panel["ssim"][1:] < 0.9).all()
    assert "ms_ssim" not in metrics.metrics_for((24, 24))
    assert metrics.metrics_for((176, 176)) == tuple(metrics.METRICS)


WINDOWS = fj.pooling_windows(0.4, (64, 64), published=False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: evaluate.evaluate(predict, "s", FLAT, LABELS, probes=("blink",)),
            "probes has 'blink'; allowed are occlusion/scotoma,",
        ),
        # Asked directly: the checked annotations of `evaluate` complain first in tests.
        (lambda: evaluate.check_labelled("raw", FLAT, LABELS[1:]), "raw has 20 images and 19 lab"),
        (lambda: evaluate.check_labelled("raw", FLAT[:0], LABELS[:0]), "raw has 0 images"),
        (
            lambda: evaluate.evaluate(predict, "s", FLAT, LABELS, every=0),
            "every is 0; allowed",
        ),
        (lambda: evaluate.evaluate(predict, "s", FLAT, LABELS, n_images=-1), "n_images is -1"),
        (
            lambda: evaluate.evaluate(predict, "s", FLAT, LABELS, windows=WINDOWS),
            r"windows are of size \(64, 64\), the images of \(32, 32\)",
        ),
        (lambda: perceptual.perceptual_panel(FLAT, FLAT, ("beauty",)), "metrics has 'beauty'"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(call, message):
    with pytest.raises(fj.InputError, match=message):
        call()
