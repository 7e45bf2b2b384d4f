"""Labelled splits: decoded once, found again, whole or not at all, and what cannot be used."""

import dataclasses
import hashlib
import os
import shutil

import numpy as np
import pytest

from foveation_jax import InputError
from foveation_jax.data import SCENE_CLASSES, labelled, open_labelled, write_png
from foveation_jax.data.arrays import find_array, write_array
from foveation_jax.data.fingerprint import fingerprint
from foveation_jax.data.folders import open_folder

CLASSES = ("attic", "kitchen", "ocean")
SIZE = (16, 16)


def _picture(split: str, label: str, number: int) -> np.ndarray:
    seed = [len(split), len(label), number]
    return np.random.default_rng(seed).integers(0, 256, (16, 20, 3)) / 255


@pytest.fixture
def data(tmp_path):
    """Three classes of 4 training and 2 test pictures."""
    for split, count in (("train", 4), ("test", 2)):
        for label in CLASSES:
            for number in range(count):
                path = tmp_path / "data" / split / label / f"{number}.png"
                write_png(path, _picture(split, label, number))
    return tmp_path / "data"


def _open(data, tmp_path, **options):
    return open_labelled(str(data), SIZE, tmp_path / "decoded", **options)


def test_folder_is_decoded_to_levels_with_its_labels(data, tmp_path):
    splits = _open(data, tmp_path)
    assert sorted(splits) == ["test", "train"]
    train = splits["train"]
    assert train.images.shape == (12, *SIZE, 3)
    assert train.images.dtype == np.uint8
    assert isinstance(train.images, np.memmap)
    assert train.class_names == splits["test"].class_names == CLASSES
    np.testing.assert_array_equal(train.labels, np.repeat([0, 1, 2], 4))
    middle = np.round(_picture("train", "kitchen", 1)[:, 2:18] * 255)
    np.testing.assert_array_equal(train.images[5], middle)


def test_folders_that_are_links_are_gone_into(data, tmp_path):
    """And a link to a folder that it lies in is refused."""
    linked = tmp_path / "linked"
    for split in ("train", "test"):
        (linked / split).mkdir(parents=True)
        for folder in sorted((data / split).iterdir()):
            (linked / split / folder.name).symlink_to(folder)
    names = [open_folder(place / "train").names for place in (data, linked)]
    assert names[0] == names[1]
    assert fingerprint([data])["content"] == fingerprint([linked])["content"]
    (linked / "train" / "again").symlink_to(linked)
    with pytest.raises(InputError, match="again is a link to a folder that it lies in"):
        open_folder(linked)


def test_second_call_reads_no_picture_and_a_copy_of_the_data_will_do(data, tmp_path, monkeypatch):
    first = _open(data, tmp_path)
    (data / "train" / "attic" / ".DS_Store").write_text("")
    monkeypatch.setattr(labelled, "_read_levels", None)
    shutil.copytree(data, tmp_path / "copied")
    _open(tmp_path / "copied", tmp_path)
    monkeypatch.setattr(hashlib, "file_digest", None)  # now by names, sizes and times alone
    again = _open(tmp_path / "copied", tmp_path)
    for name, split in first.items():
        np.testing.assert_array_equal(again[name].images, split.images)
        np.testing.assert_array_equal(again[name].labels, split.labels)
        assert again[name].fingerprint == split.fingerprint


def test_classes_and_limits_take_the_first_of_each_class(data, tmp_path):
    everything = _open(data, tmp_path)["train"]
    options = {"classes": ("ocean", "attic"), "limit_train": 2, "limit_test": 1}
    splits = open_labelled(str(data), SIZE, tmp_path / "part", **options)
    assert splits["train"].class_names == ("attic", "ocean")
    np.testing.assert_array_equal(splits["train"].labels, [0, 0, 1, 1])
    np.testing.assert_array_equal(splits["train"].images, everything.images[[0, 1, 8, 9]])
    assert len(splits["test"].labels) == 2
    assert splits["train"].fingerprint != everything.fingerprint


def test_validation_split_is_taken_where_there_is_one(data, tmp_path):
    for label in CLASSES:
        write_png(data / "val" / label / "0.png", _picture("val", label, 0))
    assert len(_open(data, tmp_path)["val"].labels) == 3


@pytest.mark.parametrize(
    ("options", "field"),
    [({"limit_train": 3}, "limit was 0, is 3"), ({"classes": ("attic", "ocean")}, "classes was")],
)
def test_decoded_images_of_another_making_are_refused(data, tmp_path, options, field):
    before = _open(data, tmp_path)["train"].images.copy()
    with pytest.raises(InputError, match=rf"train\.npy holds images of another making \({field}"):
        _open(data, tmp_path, **options)
    write_png(data / "train" / "attic" / "more.png", _picture("train", "attic", 9))
    with pytest.raises(InputError, match=r"another making \(files was"):
        _open(data, tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "decoded" / "train.npy"), before)


def _without_split(data):
    (data / "test").rename(data / "exam")


def _one_class(data):
    for path in (*data.glob("*/attic"), *data.glob("*/ocean")):
        path.rename(data / f"{path.parent.name}-{path.name}")


def _empty_class(data):
    (data / "train" / "zoo").mkdir()


def _empty_split(data):
    (data / "test").rename(data / "exam")
    (data / "test").mkdir()


def _missing_class(data):
    (data / "test" / "ocean").rename(data / "ocean")


def _stray_file(data):
    (data / "train" / "list.txt").write_text("attic/0.png 1")


def _unreadable(data):
    (data / "train" / "ocean" / "2.png").write_bytes(b"no picture")
    (data / "train" / "attic" / "notes.txt").write_text("no picture")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_split, r"holds no test/ with a folder a class"),
        (_one_class, r"kitchen is its only class, two are needed"),
        (_empty_class, r"the class zoo is empty"),
        (_empty_split, r"test is empty, it must hold one folder a class"),
        (_missing_class, r"the split test holds no images of ocean, which other splits hold"),
        (_stray_file, r"list\.txt is a file, .*train must hold one folder a class"),
        (_unreadable, r"2 images cannot be read: .*notes\.txt: .* .*2\.png: "),
    ],
)
def test_data_that_cannot_be_used(data, tmp_path, spoil, message):
    spoil(data)
    with pytest.raises(InputError, match=message):
        _open(data, tmp_path)
    assert not list(tmp_path.glob("decoded/train.npy"))


def test_images_that_cannot_be_read_are_left_out_where_asked(data, tmp_path, capsys, monkeypatch):
    write_png(data / "train" / "attic" / "3.png", np.zeros((16, 60, 3)))
    whole = open_labelled(str(data), SIZE, tmp_path / "whole")["train"]
    capsys.readouterr()
    _unreadable(data)
    found = _open(data, tmp_path, unreadable="skip")
    train = found["train"]
    assert sorted(train.skipped) == ["attic/notes", "ocean/2"]
    assert all("cannot be read" in why or "picture" in why for why in train.skipped.values())
    kept = [i for i in range(12) if i != 8 + 2]
    np.testing.assert_array_equal(train.images, whole.images[kept])
    np.testing.assert_array_equal(train.labels, whole.labels[kept])
    assert not found["test"].skipped
    said = capsys.readouterr().err
    assert said.count("lost over") == 1  # the wide one, though it was read twice
    assert "2 of 13 train images cannot be read and are left out" in said
    monkeypatch.setattr(labelled, "read_batches", None)  # nothing is read again
    again = _open(data, tmp_path, unreadable="skip")["train"]
    assert (again.skipped, again.fingerprint) == (train.skipped, train.fingerprint)
    with pytest.raises(InputError, match=r"another making \(unreadable was skip, is None\)"):
        _open(data, tmp_path)


def test_a_class_of_which_nothing_can_be_read_is_refused_all_the_same(data, tmp_path):
    for number in range(2):
        (data / "test" / "attic" / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="no image of the class attic in test can be read"):
        _open(data, tmp_path, unreadable="skip")


def test_settings_that_cannot_be_used(data, tmp_path):
    with pytest.raises(InputError, match=r"nowhere is not a folder; name one, or tfds:NAME"):
        open_labelled(str(tmp_path / "nowhere"), SIZE, tmp_path / "decoded")
    with pytest.raises(InputError, match=r"classes names 'kichen'.*did you mean kitchen\?"):
        _open(data, tmp_path, classes=("attic", "kichen"))
    with pytest.raises(InputError, match=r"classes names 'xyz'.*there is none like it"):
        _open(data, tmp_path, classes=("attic", "xyz"))
    with pytest.raises(InputError, match=r"limit_test is -1"):
        _open(data, tmp_path, limit_test=-1)
    assert not (tmp_path / "decoded").exists()


def test_scenes_are_new_ones_in_every_split_and_those_of_the_test_stay(tmp_path):
    options = {"limit_train": 2, "limit_test": 1}
    splits = open_labelled("synthetic", SIZE, tmp_path / "a", **options)
    more = open_labelled("synthetic", SIZE, tmp_path / "b", **(options | {"limit_train": 3}))
    assert splits["train"].class_names == SCENE_CLASSES
    np.testing.assert_array_equal(np.bincount(splits["train"].labels), 2)
    np.testing.assert_array_equal(more["test"].images, splits["test"].images)
    np.testing.assert_array_equal(more["train"].images[:20], splits["train"].images)
    both = np.concatenate([s.images.reshape(-1, 16 * 16 * 3) for s in splits.values()])
    assert len(np.unique(both, axis=0)) == 30
    other = open_labelled("synthetic", SIZE, tmp_path / "c", seed=1, **options)
    assert (other["test"].images != splits["test"].images).mean() > 0.5
    assert other["test"].fingerprint != splits["test"].fingerprint


def test_pictures_replaced_in_place_are_noticed(data, tmp_path):
    """By their content, although names, sizes and times of modification are what they were."""
    _open(data, tmp_path)
    path = data / "train" / "kitchen" / "1.png"
    before, levels = path.stat(), bytearray(path.read_bytes())
    levels[-20] ^= 1
    path.write_bytes(levels)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError, match=r"train\.npy holds images of another making \(files was"):
        _open(data, tmp_path)


IMAGES = np.random.default_rng(0).integers(0, 256, (10, 2, 3, 3), dtype=np.uint8)
RECORD = {"made_of": {"size": (2, 3)}}


def _batches(calls, fail_at=-1):
    def make(numbers):
        for number in numbers:
            if number == fail_at:
                raise KeyboardInterrupt
            calls.append(number)
            yield IMAGES[4 * number : 4 * number + 4]

    return make


@pytest.mark.parametrize(
    ("lost_bytes", "first"),  # two batches of 72 bytes are written after the header
    [(0, 2), (1, 1), (72, 1), (73, 0), (144, 0), (150, 0)],
)
def test_stopped_array_goes_on_with_the_batch_it_was_at(tmp_path, lost_bytes, first):
    path, calls, counts = tmp_path / "deep" / "x.npy", [], []
    with pytest.raises(KeyboardInterrupt):
        write_array(path, RECORD, IMAGES.shape, 4, _batches(calls, fail_at=2))
    assert not path.exists()
    assert find_array(path, RECORD["made_of"]) is None
    (unfinished,) = path.parent.glob(".x.npy-*.part")
    unfinished.write_bytes(unfinished.read_bytes()[: unfinished.stat().st_size - lost_bytes])
    write_array(path, RECORD, IMAGES.shape, 4, _batches(calls), counts.append)
    assert calls == [0, 1, *range(first, 3)]
    assert sum(counts) == 10
    np.testing.assert_array_equal(np.load(path), IMAGES)
    assert sorted(p.name for p in path.parent.iterdir()) == ["x.json", "x.npy"]


def _flip(content):
    return content[:-30] + bytes([content[-30] ^ 1]) + content[-29:]


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "by one": lambda content: content[:-1],
    "longer": lambda content: content + b"x",
    "empty": lambda content: b"",
    "junk": lambda content: b"\xff\x00junk\n" * (len(content) // 7),
    "one bit": _flip,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["x.npy", "x.json"])
def test_damaged_array_is_none_and_made_again(tmp_path, capsys, name, damage):
    path, calls = tmp_path / "x.npy", []
    write_array(path, RECORD, IMAGES.shape, 4, _batches([]))
    contents = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    (tmp_path / name).write_bytes(DAMAGE[damage](contents[name]))
    assert find_array(path, RECORD["made_of"]) is None
    assert name in capsys.readouterr().err
    write_array(path, RECORD, IMAGES.shape, 4, _batches(calls))
    assert calls == [0, 1, 2]
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == contents


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("suffix", [".part", ".crc32"])
def test_what_a_killed_run_left_is_trusted_as_far_as_its_checksums(tmp_path, suffix, damage):
    path = tmp_path / "x.npy"
    with pytest.raises(KeyboardInterrupt):
        write_array(path, RECORD, IMAGES.shape, 4, _batches([], fail_at=2))
    (left,) = tmp_path.glob(f".x.npy-*{suffix}")
    left.write_bytes(DAMAGE[damage](left.read_bytes() * (30 if suffix == ".crc32" else 1)))
    write_array(path, RECORD, IMAGES.shape, 4, _batches([]))
    np.testing.assert_array_equal(find_array(path, RECORD["made_of"])[1], IMAGES)


def test_two_writers_at_once_do_not_touch_each_other(tmp_path):
    """One is stopped in the middle of a batch of the other, as two processes would be."""
    path, calls, inner = tmp_path / "x.npy", [], []

    def make(numbers):
        for number, batch in enumerate(_batches(calls)(numbers)):
            if number == 1:
                inner.append(write_array(path, RECORD, IMAGES.shape, 4, _batches([])))
            yield batch

    outer = write_array(path, RECORD, IMAGES.shape, 4, make)
    for images in (*inner, outer, np.load(path)):
        np.testing.assert_array_equal(images, IMAGES)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.json", "x.npy"]


def test_array_stopped_under_other_settings_begins_anew(tmp_path):
    path, calls = tmp_path / "x.npy", []
    with pytest.raises(KeyboardInterrupt):
        write_array(path, RECORD, IMAGES.shape, 4, _batches([], fail_at=1))
    write_array(path, {"made_of": {"size": 0}}, IMAGES.shape, 4, _batches(calls))
    assert calls == [0, 1, 2]
    record, images = find_array(path, {"size": 0})
    assert record["made_of"] == {"size": 0}
    np.testing.assert_array_equal(images, IMAGES)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.json", "x.npy"]


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"x\.npy cannot be written"):
        write_array(tmp_path / "file" / "x.npy", RECORD, IMAGES.shape, 4, _batches([]))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """TFDS sets like places365_small (no labels in the test split) and one without labels."""
    tfds = pytest.importorskip("tensorflow_datasets")
    root = tmp_path_factory.mktemp("tfds")
    for number in range(6):
        level = np.full((16, 20, 3), 40 * number / 255)
        write_png(root / f"{number}.png", level)

    class TinyPlaces(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=list(CLASSES)),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {s: self._generate_examples(s) for s in ("train", "validation", "test")}

        def _generate_examples(self, split):
            for number in range(6):
                label = -1 if split == "test" else number % 3
                yield number, {"image": str(root / f"{number}.png"), "label": label}

    class TinyPictures(TinyPlaces):
        def _info(self):
            features = {"image": tfds.features.Image(shape=(None, None, 3))}
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _generate_examples(self, split):
            for number in range(6):
                yield number, {"image": str(root / f"{number}.png")}

    for builder in (TinyPlaces, TinyPictures):
        builder(data_dir=root / "data", file_format="array_record").download_and_prepare()
    return root / "data"


@pytest.mark.filterwarnings("ignore")
def test_tfds_is_tested_on_its_validation_split(prepared, tmp_path):
    options = {"data_dir": str(prepared), "classes": ("attic", "ocean"), "limit_train": 1}
    splits = open_labelled("tfds:tiny_places", SIZE, tmp_path, **options)
    assert splits["test"].class_names == ("attic", "ocean")
    assert sorted(splits["train"].labels) == [0, 1]
    assert sorted(splits["test"].labels) == [0, 0, 1, 1]
    for split in splits.values():
        numbers = split.images[:, 0, 0, 0] // 40
        np.testing.assert_array_equal(numbers % 3, 2 * split.labels)
    again = open_labelled("tfds:tiny_places", SIZE, tmp_path, **options)
    assert dataclasses.asdict(again["test"])["fingerprint"] == splits["test"].fingerprint


@pytest.mark.filterwarnings("ignore")
def test_tfds_sets_that_cannot_be_used(prepared, tmp_path):
    command = r"data=tfds:tiny_places: .* not prepared; .*tfds\.builder\('tiny_places', data_dir="
    with pytest.raises(InputError, match=command):
        open_labelled("tfds:tiny_places", SIZE, tmp_path, data_dir=str(tmp_path))
    with pytest.raises(InputError, match=r'data=tfds:tiny_pictures: its examples hold no "label"'):
        open_labelled("tfds:tiny_pictures", SIZE, tmp_path, data_dir=str(prepared))
    with pytest.raises(InputError, match=r"data=tfds:no_such_set: "):
        open_labelled("tfds:no_such_set", SIZE, tmp_path, data_dir=str(prepared))
    assert not list(tmp_path.glob("*.npy"))
