"""Synthetic scenes: seeded, in range, varied, and told apart by both kinds of cue."""

import jax
import numpy as np

from foveation_jax.data import SCENE_CLASSES, open_scenes, render_scenes
from foveation_jax.data.scenes import COLUMNS, JITTER, LAYERS

CLASSES = len(SCENE_CLASSES)
LABELS = np.tile(np.arange(CLASSES), 8)
SCENES = np.asarray(render_scenes(jax.random.key(0), LABELS, (48, 48)))


def test_tables_agree():
    assert LAYERS.shape == (CLASSES, LAYERS.shape[1], len(COLUMNS))
    assert JITTER.shape == (len(COLUMNS),)
    assert (LAYERS[:, 0, COLUMNS.index("level")] < 0).all()  # the backmost layer covers everything
    assert len(set(SCENE_CLASSES)) == CLASSES


def test_scenes_are_pictures_in_range():
    assert SCENES.shape == (len(LABELS), 48, 48, 3)
    assert np.isfinite(SCENES).all()
    assert 0 <= SCENES.min() <= SCENES.max() <= 1
    assert (SCENES.std((1, 2, 3)) > 0.05).all()


def test_same_key_same_scenes_and_longer_lists_start_alike():
    again = render_scenes(jax.random.key(0), LABELS[:CLASSES], (48, 48))
    np.testing.assert_allclose(again, SCENES[:CLASSES], atol=1e-5)
    other = np.asarray(render_scenes(jax.random.key(1), LABELS[:CLASSES], (48, 48)))
    assert np.abs(other - SCENES[:CLASSES]).mean((1, 2, 3)).min() > 0.02


def test_scenes_vary_within_a_class():
    by_class = SCENES.reshape(8, CLASSES, 48, 48, 3)
    assert by_class.std(0).mean((1, 2, 3)).min() > 0.03


def _accuracy(features: np.ndarray) -> float:
    """Share of scenes whose nearest class mean, made from the other scenes, is their own class."""
    features = (features - features.mean(0)) / (features.std(0) + 1e-6)
    hits = 0
    for n in range(len(features)):
        others = np.arange(len(features)) != n
        means = [features[others & (c == LABELS)].mean(0) for c in range(CLASSES)]
        hits += np.argmin([((features[n] - m) ** 2).sum() for m in means]) == LABELS[n]
    return hits / len(features)


def test_layout_and_texture_each_tell_classes_apart_well_above_chance():
    grey = SCENES.mean(-1)
    grey = (grey - grey.mean((1, 2), keepdims=True)) / grey.std((1, 2), keepdims=True)
    layout = grey.reshape(-1, 6, 8, 6, 8).mean((2, 4)).reshape(len(grey), -1)
    spectrum = np.abs(np.fft.rfft2(grey))
    coarse = np.log(spectrum[:, :24, :24].reshape(-1, 6, 4, 6, 4).mean((2, 4)) + 1e-3)
    assert _accuracy(layout) > 0.4  # chance is .1
    assert _accuracy(coarse.reshape(len(grey), -1)) > 0.4


def test_source_renders_the_scenes_it_names():
    source = open_scenes(0, 12, (48, 48), 4)
    assert source.names[0] == f"{SCENE_CLASSES[0]}/00000"
    assert len(source.names) == 12
    np.testing.assert_array_equal(source.labels, np.arange(12) % CLASSES)
    np.testing.assert_allclose(source.read(9), SCENES[9], atol=1e-5)
