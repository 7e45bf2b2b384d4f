"""Stage 1 beforehand and on the fly: the same transform, resumable, with any fixation."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveation_jax import InputError, pooling_windows, transform
from foveation_jax.data import LabelledImages, render_scenes
from foveation_jax.data.fixations import Fixations
from foveation_jax.data.images import to_levels
from foveation_jax.stage1 import on_the_fly, perceive, perceive_batch
from foveation_jax.stage1 import perceived as module
from foveation_jax.stage1.perceived import BATCH, draw_fixations, own_keys
from foveation_jax.transforms import SYSTEMS, matched

SIZE = (32, 32)
LABELS = np.arange(BATCH + 3, dtype=np.int32) % 10
IMAGES = to_levels(render_scenes(jax.random.key(0), LABELS, SIZE))
LABELLED = LabelledImages(IMAGES, LABELS, tuple("abcdefghij"), "scenes")
KEY = jax.random.key(5)
RECORD = dataclasses.replace(matched.shipped("foveation_blur"), size=SIZE, fixation=None)
FIXATED = {  # with options under which so small an image is changed
    "foveation_texture": {"field_of_view": 60.0},
    "foveation_blur": {"matched": RECORD},
    "cortical_magnification": {},
    "contrast_sensitivity_blur": {"decay": 2.0},
}


def _expected(system: str, number: int) -> np.ndarray:
    """What the system makes of a batch by itself, as levels."""
    batch = IMAGES[number * BATCH :][:BATCH]
    each = zip(jnp.asarray(batch) / 255, own_keys(KEY, batch), strict=True)
    return to_levels(jnp.concatenate([transform(system, image[None], key) for image, key in each]))


def _levels_apart(first, second) -> int:
    return int(np.abs(np.asarray(first, int) - np.asarray(second, int)).max())


def _grainy(images, key, *, contrast=0.1):
    """A system that, like Foveation-Texture, shares one field of noise among a batch."""
    noise = jax.random.uniform(key, (32 * 32 * 3,)).reshape(1, 32, 32, 3) - 0.5
    return images + contrast * noise


@pytest.fixture(scope="module", autouse=True)
def _registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SYSTEMS, "grainy", _grainy)
        yield


@pytest.fixture(scope="module")
def grainy(tmp_path_factory):
    """Folder that holds the images as the grainy system sees them, and those."""
    folder = tmp_path_factory.mktemp("perceived")
    return folder, perceive(LABELLED, "grainy", KEY, folder / "train.npy")


def test_images_on_disk_are_what_the_system_lets_through(grainy):
    _, seen = grainy
    assert isinstance(seen.images, np.memmap)
    assert seen.images.shape == IMAGES.shape
    assert seen.fingerprint not in ("", LABELLED.fingerprint)
    np.testing.assert_array_equal(seen.labels, LABELS)
    for number in (0, 1):
        expected = _expected("grainy", number)
        assert _levels_apart(seen.images[number * BATCH :][:BATCH], expected) <= 1
    assert np.abs(seen.images.astype(int) - IMAGES).mean() > 2


def test_the_noise_of_an_image_is_its_own(grainy, tmp_path):
    """Wherever it stands, and whatever stands beside it; and no two images share theirs."""
    _, seen = grainy
    places = np.random.default_rng(0).permutation(len(LABELS))[:20]
    few = dataclasses.replace(
        LABELLED, images=IMAGES[places], labels=LABELS[places], fingerprint="few"
    )
    again = perceive(few, "grainy", KEY, tmp_path / "few.npy")
    np.testing.assert_array_equal(again.images, seen.images[places])
    noise = (seen.images.astype(int) - IMAGES)[:, 8:16, 8:16].reshape(len(IMAGES), -1)
    correlation = np.corrcoef(noise) - np.eye(len(noise))
    assert np.abs(correlation).max() < 0.7


def test_reference_is_run_and_gives_the_images(tmp_path):
    seen = perceive(LABELLED, "reference", KEY, tmp_path / "train.npy")
    assert _levels_apart(seen.images, IMAGES) <= 1


def test_finished_images_are_found_and_others_refused(grainy, monkeypatch):
    folder, seen = grainy
    monkeypatch.setattr(module, "_write", None)
    again = perceive(LABELLED, "grainy", KEY, folder / "train.npy")
    assert again.fingerprint == seen.fingerprint
    np.testing.assert_array_equal(again.images, seen.images)
    other_images = dataclasses.replace(LABELLED, fingerprint="")
    for field, arguments in (
        ("system", (LABELLED, "reference", KEY)),
        ("key", (LABELLED, "grainy", jax.random.key(6))),
        ("images", (other_images, "grainy", KEY)),
    ):
        with pytest.raises(InputError, match=rf"another making \({field} was"):
            perceive(*arguments, folder / "train.npy")
    with pytest.raises(InputError, match=r"another making \(options was"):
        perceive(LABELLED, "grainy", KEY, folder / "train.npy", {"contrast": 0.5})


def test_stopped_work_goes_on_to_the_same_images(grainy, tmp_path, monkeypatch):
    _, seen = grainy
    read = module._batch

    def stop(labelled, number):
        if number == 1:
            raise KeyboardInterrupt
        return read(labelled, number)

    path = tmp_path / "train.npy"
    monkeypatch.setattr(module, "_batch", stop)
    with pytest.raises(KeyboardInterrupt):
        perceive(LABELLED, "grainy", KEY, path)
    assert not path.exists()
    numbers = []
    monkeypatch.setattr(module, "_batch", lambda *a: (numbers.append(a[1]), read(*a))[1])
    again = perceive(LABELLED, "grainy", KEY, path)
    assert numbers == [0, 1]  # batch 0 for its shape alone
    np.testing.assert_array_equal(again.images, seen.images)


def test_an_image_that_comes_out_not_finite_is_never_written(tmp_path, monkeypatch):
    """One pixel of one image, drawn at random; the images before it are found by the next run."""
    random = np.random.default_rng(0)
    for name, value in (("nan", np.nan), ("inf", np.inf), ("-inf", -np.inf)):
        image, place = int(random.integers(len(LABELS))), int(random.integers(32 * 32 * 3))
        whole = IMAGES.copy()
        whole[:, 0, 0] = 0
        whole[image, 0, 0] = 255  # the mark by which the system knows it

        def spoilt(images, key, *, place=place, value=value):
            flat = images.reshape(len(images), -1)
            marked = (images[:, 0, 0] == 1).all(-1)[:, None]
            at = (jnp.arange(flat.shape[1]) == place)[None]
            return jnp.where(marked & at, value, flat).reshape(images.shape)

        monkeypatch.setitem(SYSTEMS, f"spoilt {name}", spoilt)
        labelled = dataclasses.replace(LABELLED, images=whole, fingerprint=name)
        sentence = f"spoilt {name}: image {image} of {name} comes out with values that are not"
        with pytest.raises(InputError, match=sentence):
            perceive(labelled, f"spoilt {name}", KEY, tmp_path / f"{name}.npy")
        assert not list(tmp_path.glob("*.npy"))
        seen = on_the_fly(f"spoilt {name}")(whole, KEY)
        assert np.isnan(np.asarray(seen)).sum() == 1


def test_weights_replaced_in_place_are_noticed(tmp_path, monkeypatch):
    weights = tmp_path / "weights.npz"
    monkeypatch.setitem(SYSTEMS, "weighed", lambda images, key, *, weights="": images)
    options = {"weights": str(weights)}
    weights.write_bytes(b"first")
    perceive(LABELLED, "weighed", KEY, tmp_path / "x.npy", options)
    perceive(LABELLED, "weighed", KEY, tmp_path / "x.npy", options)
    weights.write_bytes(b"other")
    with pytest.raises(InputError, match=r"another making \(weights was"):
        perceive(LABELLED, "weighed", KEY, tmp_path / "x.npy", options)


def test_bad_options_stop_before_any_output(tmp_path):
    for system, options, message in (
        ("blur", {}, "system 'blur' is not registered"),
        ("uniform_blur", {"sigmas": 1}, "uniform_blur has no option 'sigmas'"),
    ):
        with pytest.raises(InputError, match=message):
            perceive(LABELLED, system, KEY, tmp_path / "train.npy", options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("system", FIXATED)
def test_traced_fixations_give_what_fixed_ones_give(system):
    given = FIXATED[system]
    fixations = np.array([[15.5, 15.5], [3.0, 28.5]], np.float32)
    image, first = IMAGES[:1], 1 if system == "foveation_texture" else 2  # it compiles for long
    moving = jax.jit(lambda images, at: perceive_batch(system, given, images, KEY, fixations=at))(
        np.repeat(image, 2, 0), fixations
    )
    for seen, fixation in zip(moving[:first], fixations.tolist(), strict=False):
        fixed = perceive_batch(system, given | {"fixation": tuple(fixation)}, image, KEY)[0]
        assert _levels_apart(seen, fixed) <= 1
    assert _levels_apart(*moving) > 5


def test_every_system_with_a_fixation_is_tried():
    with_fixation = {name for name in SYSTEMS if module._has_fixation(name)}
    assert with_fixation == {*FIXATED, "scrambled_texture"}


def test_published_windows_refuse_a_traced_fixation():
    with pytest.raises(InputError, match="published windows need a fixation of two numbers"):
        jax.jit(lambda at: pooling_windows(0.4, SIZE, at).fixation)(jnp.zeros(2))


@settings(deadline=None, max_examples=10)
@given(size=st.tuples(st.integers(16, 90), st.integers(16, 90)), seed=st.integers(0, 99))
def test_drawn_fixations_lie_on_the_image(size, seed):
    for deviation in (None, 0.5, 50.0):
        drawn = np.asarray(draw_fixations(jax.random.key(seed), 64, size, deviation))
        assert (drawn >= 0).all()
        assert (drawn <= np.array(size) - 1).all()


def test_gaussian_fixations_have_the_deviation_and_uniform_ones_fill_the_image():
    size, per_degree = (100, 260), 10
    gaussian = np.asarray(draw_fixations(KEY, 4000, size, 1.0))
    np.testing.assert_allclose(gaussian.mean(0), [49.5, 129.5], atol=1)
    np.testing.assert_allclose(gaussian.std(0), per_degree, rtol=0.05)
    uniform = np.asarray(draw_fixations(KEY, 4000, size))
    np.testing.assert_allclose(uniform.std(0), np.array([99, 259]) / 12**0.5, rtol=0.05)


def test_on_the_fly_with_a_fixed_fixation_is_what_is_on_disk(tmp_path):
    options = {"fixation": (3.0, 20.0), "matched": RECORD}
    few = dataclasses.replace(LABELLED, images=IMAGES[:4], labels=LABELS[:4])
    on_disk = perceive(few, "foveation_blur", KEY, tmp_path / "x.npy", options)
    seen = jax.jit(on_the_fly("foveation_blur", options))(IMAGES[:4], KEY)
    assert seen.dtype == jnp.float32  # levels all the same
    assert _levels_apart(seen, on_disk.images) <= 1


def test_eye_movements_differ_by_image_and_call_and_are_functions_of_the_key():
    same = np.repeat(IMAGES[:1], 3, 0)
    one_run = on_the_fly("foveation_blur", {"matched": RECORD}, "uniform")
    see = jax.jit(jax.vmap(one_run, (None, 0)))  # over runs, as training does
    first = np.asarray(see(same, jax.random.split(KEY)))
    assert first.shape == (2, *same.shape)
    np.testing.assert_array_equal(first, see(same, jax.random.split(KEY)))
    for a, b in itertools.combinations([*first[0], *first[1]], 2):
        assert np.abs(a.astype(int) - b).mean() > 0.5
    still = on_the_fly("uniform_blur", {"sigma": 1.0}, "gaussian")(same, KEY)
    assert np.ptp(np.asarray(still), axis=0).max() == 0


def test_images_are_seen_from_the_first_of_their_own_fixations(tmp_path):
    """On disk, over several batches; a system that looks nowhere sees what it saw."""
    places = np.random.default_rng(0).uniform(0, 31, (len(LABELS), 2))
    own = Fixations.of([[place, (0, 0)] for place in places])
    looked = dataclasses.replace(LABELLED, fixations=own)
    seen = perceive(looked, "foveation_blur", KEY, tmp_path / "x.npy", {"matched": RECORD})
    assert seen.fixations is None
    at = jnp.asarray(places, jnp.float32)
    for some in (slice(0, 3), slice(BATCH, BATCH + 3)):
        images = jnp.asarray(IMAGES[some]) / 255
        expected = transform("foveation_blur", images, KEY, matched=RECORD, fixation=at[some])
        assert _levels_apart(seen.images[some], to_levels(expected)) <= 1
    still = perceive(looked, "grainy", KEY, tmp_path / "y.npy")
    np.testing.assert_array_equal(still.images, perceive(LABELLED, "grainy", KEY,
                                                         tmp_path / "z.npy").images)  # fmt: skip


def test_other_fixations_are_other_images_on_disk(tmp_path):
    few = dataclasses.replace(LABELLED, images=IMAGES[:2], labels=LABELS[:2], fingerprint="")
    for place, refused in (((1, 1), False), ((1, 1), False), ((1, 2), True)):
        looked = dataclasses.replace(few, fixations=Fixations.of([[place]] * 2))
        arguments = (looked, "cortical_magnification", KEY, tmp_path / "x.npy")
        if refused:
            with pytest.raises(InputError, match=r"another making \(images was"):
                perceive(*arguments)
        else:
            perceive(*arguments)


def test_on_the_fly_images_are_seen_from_the_fixations_that_are_given():
    at = jnp.array([[3.0, 20.0], [15.5, 15.5], [31.0, 0.0]])
    options = {"matched": RECORD, "fixation": (1.0, 1.0)}
    seen = jax.jit(on_the_fly("foveation_blur", options))(IMAGES[:3], KEY, at)
    expected = perceive_batch("foveation_blur", {"matched": RECORD}, IMAGES[:3], KEY, at)
    np.testing.assert_array_equal(seen, expected)
    see = on_the_fly("grainy")
    np.testing.assert_array_equal(see(IMAGES[:3], KEY, at), see(IMAGES[:3], KEY))


def test_eye_movements_that_cannot_be_used():
    with pytest.raises(InputError, match="eye_movements is 'saccades'; allowed are fixed"):
        on_the_fly("foveation_blur", eye_movements="saccades")
    with pytest.raises(InputError, match="deviation, in degrees, is 0; allowed is above 0"):
        on_the_fly("foveation_blur", eye_movements="gaussian", deviation=0)
    with pytest.raises(InputError, match="fixation is set"):
        on_the_fly("foveation_blur", {"fixation": (1, 1)}, "uniform")
    with pytest.raises(InputError, match="system 'blurr' is not registered"):
        on_the_fly("blurr", eye_movements="uniform")(IMAGES[:1], KEY)
