"""Sources of pictures: folders, those that come with an installation; batches of any."""

import dataclasses
import os

import numpy as np
import pytest
from PIL import Image

from foveation_jax.data import embedded_images, open_folder, read_batches
from foveation_jax.runs.errors import InputError
from foveation_jax.stage1.export import export_pictures, whole_batches
from tests.foveation.data.test_images import levels


def test_folder_with_classes(folder):
    source = open_folder(folder)
    assert source.class_names == ("attic", "kitchen")
    assert source.names[:2] == ("attic/0", "attic/1")
    assert source.names[-1] == "kitchen/notes"
    np.testing.assert_array_equal(source.labels, [0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_allclose(source.read(3) * 255, levels(70, (20, 20, 3)), atol=1e-3)


def test_folder_without_classes_and_names_that_would_clash(tmp_path):
    for name in ("a.png", "a.bmp", "sub/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(levels()).save(tmp_path / name)
    source = open_folder(tmp_path)
    assert source.names == ("a.bmp", "a.png", "sub/b")
    assert source.class_names == ()


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        open_folder(tmp_path / "absent")
    with pytest.raises(InputError, match="holds no files"):
        open_folder(tmp_path)


def test_batches_have_one_shape_and_keep_their_places(folder):
    batches = list(read_batches(open_folder(folder), (16, 24), 4))
    assert [b.images.shape for b in batches] == [(4, 16, 24, 3)] * 2
    np.testing.assert_array_equal(batches[1].indices, [4, 5, 6, -1])
    np.testing.assert_array_equal(batches[1].present, [True, True, False, False])
    assert list(batches[1].failures) == ["kitchen/notes"]
    np.testing.assert_array_equal(batches[1].images[2:], 0.5)
    (second,) = read_batches(open_folder(folder), (16, 24), 4, [1])
    np.testing.assert_array_equal(second.images, batches[1].images)


@pytest.mark.parametrize("name", [b"\xff\xfe", b"sub/\xe9t\xe9.png", b"n" * 240 + b".png"])
def test_names_that_no_page_can_hold_are_refused_before_any_work(name, tmp_path):
    path = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        Image.fromarray(levels()).save(file, "PNG")
    with pytest.raises(InputError, match=r"images: .*(is not UTF-8|over 230 bytes)") as refusal:
        open_folder(tmp_path)
    str(refusal.value).encode()


def test_odd_names_come_through(tmp_path):
    names = ["a\nb.png", 'it\'s "so" & <b>.png', "x..png", "#1?.png", "日本.png", "a.png.jpg"]
    names += ["a.png", "a.jpg", "c.jpg", "c.png/d.jpg", ".hidden.png"]
    (tmp_path / "c.png").mkdir()
    for name in names:
        Image.fromarray(levels()).save(tmp_path / name)
    source = open_folder(tmp_path)
    assert len(set(source.names)) == len(names) - 1
    assert {"a.png", "a.jpg", "a.png.jpg", "a\nb", "x.", "日本"} < set(source.names)
    failures = export_pictures(
        source, {"raw": lambda x, n: x}, tmp_path / "out", (20, 30), whole_batches(4)
    )
    assert not failures
    for name in source.names:
        assert (tmp_path / "out" / "raw" / f"{name}.png").exists()


def test_a_source_of_wrong_values_fails_by_name(folder):
    source = open_folder(folder)
    for value in (np.nan, 17.0):
        wrong = dataclasses.replace(
            source, read=lambda i, v=value: np.full((20, 20, 3), v if i == 1 else 0.5, np.float32)
        )
        (batch,) = read_batches(wrong, (16, 24), 8, [0])
        assert list(batch.failures) == ["attic/1"]
        assert "attic/1: the picture's levels" in batch.failures["attic/1"]
        np.testing.assert_array_equal(batch.images, 0.5)


def test_embedded_pictures_are_named_and_readable():
    source = embedded_images(0, (32, 32))
    assert len(set(source.names)) == len(source.names) >= 10
    assert source.names[-1] == "scenes/room"
    assert source.read(0).shape[2] == source.read(len(source.names) - 1).shape[2] == 3
