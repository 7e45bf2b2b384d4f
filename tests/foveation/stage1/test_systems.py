"""The first stage of an experiment: sigmas are matched on training images and tried on others."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import foveation_jax as fj
from foveation_jax.config import systems_experiment
from foveation_jax.data import LabelledImages, render_scenes
from foveation_jax.data.fixations import Fixations
from foveation_jax.data.images import to_levels
from foveation_jax.stage1 import perceived as perceived_module
from foveation_jax.stage1 import systems
from foveation_jax.transforms import SYSTEMS, settled
from foveation_jax.transforms.foveated_blur import foveated_blur_batch
from foveation_jax.transforms.uniform_blur import blur_batch
from foveation_jax.windows.pooling_windows import pooling_windows

SIZE = (32, 32)
LABELS = np.repeat(np.arange(2), 6)
SCENES = 0.5 * np.asarray(render_scenes(jax.random.key(0), np.arange(24), SIZE))
SCENES[6:12] += 0.5  # the second class is bright
SCENES[18:] += 0.5


def labelled(images, name):
    return LabelledImages(to_levels(images), LABELS, ("dark", "bright"), name)


DATA = {"train": labelled(SCENES[:12], "train"), "test": labelled(SCENES[12:], "test")}


def stand_in(images, key, *, scale=0.4, fixation=None, field_of_view=26.0):
    """Loses more of a bright picture, and more far from the fixation."""
    bright = images.mean((1, 2, 3), keepdims=True) > 0.6
    windows = pooling_windows(scale, SIZE, fixation, False, field_of_view)
    sigmas = [0.4 + s * jnp.arange(windows.n_rings, dtype=jnp.float32) for s in (0.4, 0.15)]
    return jnp.where(bright, *(foveated_blur_batch(images, s, windows) for s in sigmas))


@pytest.fixture(scope="module", autouse=True)
def _registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SYSTEMS, "foveation_texture", stand_in)
        yield
    perceived_module._compiled.cache_clear()
    systems._perceived.clear_cache()


def config_of(systems=("reference", "foveation_texture", "uniform_blur"), **stage1):
    config = systems_experiment()
    config.size, config.systems = SIZE, systems
    config.stage1.match_images = 6
    config.stage1.update(stage1)
    return config


def mean_ssim(images, system):
    values = [np.asarray(x, np.float32) / 255 for x in (images, system)]
    return float(fj.metrics.ssim(*map(jnp.asarray, values)).mean())


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    out = tmp_path_factory.mktemp("experiment")
    return out, systems.look(config_of(), DATA, out)


def test_sigmas_hold_on_training_images_of_all_classes_and_are_tried_on_test_images(looked):
    _, seen = looked
    matches = seen["uniform_blur"].matches
    assert set(matches) == {"train", "test"}
    for split, record in matches.items():
        levels = {name: system.splits[split].images for name, system in seen.items()}
        gap = mean_ssim(levels["reference"], levels["uniform_blur"])
        gap -= mean_ssim(levels["reference"], levels["foveation_texture"])
        assert record.whole_gap == pytest.approx(gap, abs=2e-3)
        assert record.n_images == 12
    assert abs(matches["train"].whole_gap) <= 0.01
    assert matches["train"].sigma_deg == matches["test"].sigma_deg
    assert matches["train"].target_value != matches["test"].target_value
    assert not seen["reference"].matches


def test_a_softened_reference_is_what_all_systems_are_made_of(tmp_path):
    """Sigmas hold for pictures that are there: blurs of the softened images against them."""
    seen = systems.look(config_of(soft=1.0), DATA, tmp_path)
    levels = {name: system.splits["train"].images for name, system in seen.items()}
    softened = fj.transform("raw", jnp.asarray(DATA["train"].images) / 255, None, soft=1.0)
    assert np.abs(np.asarray(levels["reference"], float) / 255 - softened).max() <= 1 / 255
    gaps = [
        mean_ssim(levels["reference"], levels[s]) for s in ("uniform_blur", "foveation_texture")
    ]
    record = seen["uniform_blur"].matches["train"]
    assert record.whole_gap == pytest.approx(gaps[0] - gaps[1], abs=2e-3)
    assert record.whole[1] == pytest.approx(gaps[1], abs=2e-3)


def test_what_is_kept_is_found_again_and_damage_is_named(looked):
    out, seen = looked
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settled, "measure", None)
        patch.setattr(settled, "find_sigmas", None)
        again = systems.look(config_of(), DATA, out)
    assert again["uniform_blur"].matches == seen["uniform_blur"].matches
    for name in ("uniform_blur.json", "uniform_blur-test.json"):
        whole = (out / name).read_text()
        (out / name).write_text(whole[: len(whole) // 2])
        with pytest.raises(fj.InputError, match=rf"{name}: not a record .* Delete it"):
            systems.look(config_of(), DATA, out)
        (out / name).write_text(whole)


def test_a_blur_alone_is_matched_to_the_same_texture(looked, tmp_path):
    alone = systems.look(config_of(("uniform_blur",)), DATA, tmp_path)["uniform_blur"]
    found = alone.matches["train"].sigma_deg
    assert found == pytest.approx(looked[1]["uniform_blur"].matches["train"].sigma_deg, rel=0.02)


@pytest.mark.parametrize("system", ["uniform_blur", "foveation_blur"])
def test_under_eye_movements_sigmas_match_what_is_seen_with_drawn_fixations(tmp_path, system):
    moving = {"when": "on_the_fly", "eye_movements": "uniform"}
    config = config_of((system,), **moving)
    record = systems.look(config, DATA, tmp_path)[system].matches["train"]
    assert record.fixation is None
    assert record.n_images == 12
    assert record.largest_gap <= 0.01
    pictures = systems.shown_pictures(config, "train", DATA, {})
    images, _, texture, fixations = pictures.read(np.arange(12))
    assert len(np.unique(fixations, axis=0)) == 12
    for image, seen, at in zip(images, texture, fixations, strict=True):
        expected = stand_in(jnp.asarray(image)[None], None, fixation=tuple(map(float, at)))[0]
        np.testing.assert_allclose(seen, expected, atol=1 / 255)
    some = pictures.read(np.array([3, 7]))
    np.testing.assert_array_equal(some[-1], fixations[[3, 7]])
    np.testing.assert_allclose(some[2], texture[[3, 7]], atol=1 / 255)


@pytest.mark.parametrize(
    ("when", "names", "drawn"),
    [
        ("beforehand", ("foveation_texture",), {0}),
        ("on_the_fly", ("foveation_texture", "foveation_blur"), {0, 1, 2}),
    ],
)
def test_images_are_seen_from_the_fixations_of_a_file(tmp_path, when, names, drawn):
    """From the first of their own; in steps, and there to match sigmas, from any of them."""
    rng = np.random.default_rng(0)
    places = {split: rng.uniform(0, 31, (12, 3, 2)).astype(np.float32) for split in DATA}
    own = {split: Fixations.of(places[split]) for split in DATA}
    data = {split: dataclasses.replace(DATA[split], fixations=own[split]) for split in DATA}
    config = config_of(names, when=when, fixations="at.csv")
    seen = systems.look(config, data, tmp_path)
    for split in DATA:
        pictures = systems.shown_pictures(config, split, data, seen)
        images, _, texture, fixations = pictures.read(np.arange(12))
        which = [places[split][n].tolist().index(at.tolist()) for n, at in enumerate(fixations)]
        assert set(which) == (drawn if split == "train" else {0})
        expected = fj.transform("foveation_texture", images, None, fixation=fixations)
        np.testing.assert_allclose(texture, expected, atol=1 / 255)
    for system in seen.values():
        assert set(system.splits) == ({"train", "test"} if when == "beforehand" else {"test"})
        for split, record in system.matches.items():
            assert record.fixation is None
            assert record.n_images == 12
            assert record.largest_gap <= (0.01 if split == "train" else 0.05)


def test_a_gap_that_no_sigma_closes_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(SYSTEMS, "inverse", lambda images, key: 1 - images)
    monkeypatch.setattr(systems, "MATCHED_TO", ("reference", "inverse"))
    with pytest.raises(fj.InputError, match="no sigma within"):
        systems.look(config_of(("uniform_blur",)), DATA, tmp_path)
    assert not (tmp_path / "uniform_blur.json").exists()


def test_the_stand_ins_classes_differ():
    """Else the tests above would hold for sigmas of one class."""
    images = jnp.asarray(SCENES[:12], jnp.float32)
    seen = blur_batch(images, jnp.float32(1.0)), stand_in(images, None)
    gap = np.subtract(*(np.asarray(fj.metrics.ssim(images, x)) for x in seen))
    assert abs(gap[:6].mean() - gap[6:].mean()) > 0.05
