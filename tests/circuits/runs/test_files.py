"""Files are written whole or not at all, and JSON stays JSON."""

import errno
import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits_jax.runs import files
from circuits_jax.runs.errors import InputError


def test_text_and_bytes_in_new_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    files.write(path, "żółw\n")
    assert path.read_bytes() == "żółw\n".encode()
    files.write(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(path.parent) == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644


def refuse(path, reason):
    with pytest.raises(InputError) as caught:
        files.write(path, "new")
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be written ({reason}")
    assert "--workdir" in message
    assert "\n" not in message


@pytest.mark.parametrize("step", ["write", "replace"])
def test_a_full_disk_leaves_the_earlier_file(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    files.write(path, "old")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def half(self, content):
        self.touch()
        full()

    if step == "replace":
        monkeypatch.setattr(Path, "replace", full)
    else:
        monkeypatch.setattr(Path, "write_bytes", half)
    refuse(path, "No space left on device")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_interruption_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write(path, "old")

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        files.write(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_paths_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("kept")
    refuse(tmp_path / "file" / "below", "")
    refuse(tmp_path / ("n" * 300), "File name too long")
    (tmp_path / "folder").mkdir()
    refuse(tmp_path / "folder", "Is a directory")
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_no_permission(tmp_path, monkeypatch):
    def denied(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "write_bytes", denied)
    refuse(tmp_path / "file", "Permission denied")


@given(st.dictionaries(st.text(), st.integers() | st.text()).filter(lambda r: "crc32" not in r))
def test_sealed_records_come_back(record):
    text = files.sealed(json.dumps(record))
    assert files.unseal(text) == record
    assert json.loads(text) == record | {"crc32": text[-11:-3]}


@pytest.mark.parametrize("record", [{}, {"a": 1}, {"a": {"crc32": "00000000"}, "b": [2]}])
def test_any_changed_character_breaks_the_seal(record):
    text = files.sealed(json.dumps(record))
    assert files.unseal(text) == record
    for i, character in enumerate(text):
        for other in {"0", "}", "\n", ""} - {character}:
            with pytest.raises(ValueError, match="checksum"):
                files.unseal(text[:i] + other + text[i + 1 :])


def test_what_killed_runs_left_goes(tmp_path):
    folder = tmp_path / "a"
    files.write(folder / "kept", "kept")
    with files.whole(folder / "file") as file, files.whole(folder / "folder") as below:
        file.touch()
        below.mkdir()
        (below / "part").touch()
        files.remove_unfinished(tmp_path)
        assert os.listdir(folder) == ["kept"]
        file.touch()
        below.mkdir()
    assert sorted(os.listdir(folder)) == ["file", "folder", "kept"]


def test_plain_values():
    value = {
        "array": jnp.arange(2),
        3: np.float32(0.5),
        "nan": float("nan"),
        "nested": ({"inf": np.array([np.inf, 1.0])}, True, None, "text"),
    }
    assert files.plain(value) == {
        "array": [0, 1],
        "3": 0.5,
        "nan": None,
        "nested": [{"inf": [None, 1.0]}, True, None, "text"],
    }


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON)
def test_json_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "value.json"
    files.write_json(path, value)
    assert files.read_json(path) == value


def test_json_has_no_nan(tmp_path):
    files.write_json(tmp_path / "x.json", {"a": np.nan})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None}


def test_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": "\xc5\xbc"}')
    assert files.read_json(tmp_path / "x.json") == {"a": "\u017c"}


HOSTILE = [
    b"",
    b"{",
    b"\xff\xfe\x00",
    b"[" * 10_000 + b"]" * 10_000,
    b'{"a":' * 100_000,
    b"9" * 5_000,
    b"[NaN]",
    b'{"a": -Infinity}',
    b'{"a": 1, "b": {"c": 1, "c": 1}}',
]


@pytest.mark.parametrize("content", HOSTILE, ids=lambda content: str(content[:20]))
def test_unreadable_json(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json is not a readable JSON file"):
        files.read_json(path)
    with pytest.raises(InputError, match="is not a readable JSON file"):
        files.read_json(tmp_path / "absent.json")
    for name in ("a\0b", "\ud800", "n" * 300, "."):
        with pytest.raises(InputError, match="is not a readable JSON file"):
            files.read_json(tmp_path / name)
