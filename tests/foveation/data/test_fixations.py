"""Fixations of images from a file, in training: whose they are, the first of each, and draws."""

import itertools

import numpy as np
import pytest

from foveation_jax import InputError
from foveation_jax.data import LabelledImages, batches, open_labelled, write_png
from foveation_jax.data.fixations import Fixations
from foveation_jax.data.order import batch_indices, looks_of_step

LOOKS = [[(0, 1)], [(2, 3), (4, 5), (6, 7)], [(8, 9), (10, 11)]]
OWN = Fixations.of(LOOKS)
SIZE = (16, 16)


def test_the_first_of_each_image_and_draws_of_its_own_alone():
    np.testing.assert_array_equal(OWN.first(), [(0, 1), (2, 3), (8, 9)])
    images = np.array([1, 0, 2] * 2000)
    drawn = OWN.draw(np.random.default_rng(0), images)
    assert drawn.dtype == np.float32
    for image, looks in enumerate(LOOKS):
        found, counts = np.unique(drawn[images == image], axis=0, return_counts=True)
        np.testing.assert_array_equal(found, looks)
        np.testing.assert_allclose(counts, 2000 / len(looks), rtol=0.1)


def test_other_places_other_images_or_another_order_are_told_apart():
    others = [LOOKS[::-1], [*LOOKS[:2], LOOKS[2][::-1]], [[*LOOKS[0], LOOKS[1][0]], LOOKS[1][1:]]]
    found = {Fixations.of(looks).fingerprint() for looks in (LOOKS, *others, LOOKS)}
    assert len(found) == 4


def labelled(own=OWN):
    images = np.zeros((3, 2, 2, 3), np.uint8)
    return LabelledImages(images, np.arange(3, dtype=np.int32), tuple("abc"), fixations=own)


def stream(n_runs=2, start=0, count=40):
    found = batches(labelled(), 0, n_runs, 3, start)
    looked = np.stack([at for _, _, at in itertools.islice(found, count)])
    found.close()
    return looked


def test_a_step_brings_a_fixation_of_its_own_for_every_image_of_every_run():
    found, places = stream(), {}
    for step, run, place in np.ndindex(found.shape[:3]):
        image = int(batch_indices(0, 2, 3, 3, step)[run, place])
        places.setdefault(image, set()).add(tuple(found[step, run, place].tolist()))
    assert places == {image: set(map(tuple, own)) for image, own in enumerate(LOOKS)}


def test_seeds_runs_and_steps_draw_for_themselves():
    chosen = np.ones((2, 50), int)
    drawn = [*looks_of_step(OWN, 0, 7, chosen), *looks_of_step(OWN, 0, 8, chosen)]
    drawn += [*looks_of_step(OWN, 1, 7, chosen)]
    for first, second in itertools.combinations(drawn, 2):
        same = (first == second).all(1).mean()
        assert 0.1 < same < 0.6  # a third of them, by chance


def test_a_resumed_stream_and_more_runs_bring_the_same_fixations():
    whole = stream()
    np.testing.assert_array_equal(stream(start=17, count=5), whole[17:22])
    np.testing.assert_array_equal(stream(n_runs=3)[:, :2], whole)


def test_images_without_fixations_come_as_ever():
    with_own, without = (batches(labelled(own), 0, 2, 3, 0) for own in (OWN, None))
    for ours, theirs in zip(itertools.islice(with_own, 3), without, strict=False):
        assert len(theirs) == 2
        for a, b in zip(ours[:2], theirs, strict=True):
            np.testing.assert_array_equal(a, b)
    with_own.close()
    without.close()


# ---- of a data set


@pytest.fixture
def data(tmp_path):
    """Two classes of two training pictures and a test picture."""
    names = ["train/a/0", "train/a/1", "train/b/0", "train/b/1", "test/a/0", "test/b/0"]
    for name in names:
        write_png(tmp_path / "data" / f"{name}.png", np.zeros((*SIZE, 3)))
    return tmp_path / "data"


LINES = """train/b/1.png,6,7
train/a/0,0,1
test/a/0,2,2
train/a/1.png,2,3
train/a/0.png,4,5
train/b/0,5,5
test/b/0,3,3
test/a/0,9,9
another,0,0"""


def opened(data, lines, folder="decoded", **options):
    path = data.parent / "at.csv"
    path.write_text(f"image,y,x\n{lines}\n")
    return open_labelled(str(data), SIZE, data.parent / folder, fixations=str(path), **options)


def test_images_are_named_by_split_class_and_file(data):
    splits = opened(data, LINES)
    train = splits["train"].fixations
    np.testing.assert_array_equal(train.first(), [(0, 1), (2, 3), (5, 5), (6, 7)])
    np.testing.assert_array_equal(train.counts, [2, 1, 1, 1])
    np.testing.assert_array_equal(train.places[1], (4, 5))
    np.testing.assert_array_equal(splits["test"].fixations.first(), [(2, 2), (3, 3)])
    some = opened(data, LINES, "some", limit_train=1)["train"].fixations
    np.testing.assert_array_equal(some.first(), [(0, 1), (5, 5)])


def test_of_decoded_images_the_file_may_be_another_and_tells_them_apart(data):
    """Pixels are not decoded again; what is made of them is."""
    plain = open_labelled(str(data), SIZE, data.parent / "decoded")
    splits = opened(data, LINES)
    moved = opened(data, LINES.replace("9,9", "9,10"))
    prints = [{n: found[n].fingerprint for n in found} for found in (plain, splits, moved)]
    assert prints[0]["train"] != prints[1]["train"] == prints[2]["train"]
    assert len({found["test"] for found in prints}) == 3
    again = open_labelled(str(data), SIZE, data.parent / "decoded")
    assert {n: again[n].fingerprint for n in again} == prints[0]
    assert again["train"].fixations is None


def test_scenes_have_names_too(tmp_path):
    path = tmp_path / "at.csv"
    path.write_text("image,y,x\n")
    options = {"limit_train": 1, "limit_test": 1, "fixations": str(path)}
    with pytest.raises(InputError, match=r"none for 20 of 20 pictures, such as 'train/\w+/00010'"):
        open_labelled("synthetic", SIZE, tmp_path, **options)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (LINES.replace("train/b/0", "b/0"), "none for 1 of 6 pictures, such as 'train/b/0'"),
        (LINES.replace("test/b/0", "val/b/0"), "none for 1 of 6 pictures, such as 'test/b/0'"),
        (LINES.replace("6,7", "6,16"), r"line 2 of .*at\.csv is at \(6.0, 16.0\): it must lie on"),
        (LINES.replace("6,7", "6"), r"line 2 of .*at\.csv is 'train/b/1\.png,6': it must be"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_sentence_before_anything_is_decoded(data, lines, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        opened(data, lines)
    assert "\n" not in str(error.value)
    assert not list(data.parent.glob("decoded/*.npy"))
