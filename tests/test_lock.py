"""One run at a time in a folder, in both packages."""

import errno
import importlib
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import circuits_jax
import foveation_jax

ROOT = Path(circuits_jax.__file__).parents[1]
HOLD = """
import sys, time
from pathlib import Path
from circuits_jax.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=(circuits_jax, foveation_jax), ids=lambda package: package.__name__)
def package(request):
    return request.param


@pytest.fixture
def lock(package):
    return importlib.import_module(f"{package.__name__}.runs.lock")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_second_is_told_who_is_first_and_changes_nothing(lock, tmp_path):
    folder = tmp_path / "a" / "run"
    with lock.locked(folder):
        (folder / "result").write_text("kept")
        before = contents(tmp_path)
        with pytest.raises(lock.InputError) as caught, lock.locked(folder):
            pass
        message = str(caught.value)
        assert message.startswith(f"{folder} is in use by another run (process {os.getpid()} on ")
        assert "\n" not in message
        assert contents(tmp_path) == before
    assert os.listdir(folder) == ["result"]
    with lock.locked(folder):
        pass
    assert os.listdir(folder) == ["result"]


def test_a_folder_that_nothing_came_into_goes(lock, tmp_path):
    with pytest.raises(KeyError), lock.locked(tmp_path / "a" / "b"):
        raise KeyError
    assert not os.listdir(tmp_path)
    (tmp_path / "own").mkdir()
    with lock.locked(tmp_path / "own"):
        pass
    assert os.listdir(tmp_path) == ["own"]


def test_what_is_no_folder_is_refused(lock, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "dangling"):
        with pytest.raises(lock.InputError, match=name), lock.locked(tmp_path / name):
            pass


def test_a_killed_run_frees_its_folder(tmp_path):
    from circuits_jax.runs.lock import InputError, locked

    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"process {holder.pid} on "), locked(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
    assert os.listdir(tmp_path) == [".lock"]
    with locked(tmp_path):
        pass
    assert not os.listdir(tmp_path)


def test_never_two_at_once_while_the_folder_comes_and_goes(lock, tmp_path):
    """A lock on a file that its last holder has taken away would be worth nothing."""
    folder, inside, most, taken = tmp_path / "run", [], [], []

    def work():
        for _ in range(150):
            try:
                with lock.locked(folder):
                    inside.append(1)
                    most.append(len(inside))
                    taken.append((folder / ".lock").exists())
                    inside.pop()
            except lock.InputError as error:
                assert "in use" in str(error)  # noqa: PT017

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert all(taken)
    assert not list(tmp_path.rglob(".lock"))


def test_every_job_takes_it(package, lock, tmp_path):
    name = package.__name__
    command = (ROOT / name / "main.py").read_text()
    jobs = set(re.findall(rf'": "({name}\.[\w.]+)"', command))  # the values of its table
    assert len(jobs) == {"circuits_jax": 4, "foveation_jax": 3}[name]
    with lock.locked(tmp_path):
        for job in jobs:
            with pytest.raises(lock.InputError, match="is in use by another run"):
                importlib.import_module(job).run(None, str(tmp_path))


@pytest.mark.parametrize("name", ["file", "file/below", "n" * 300, "a\0b", "\ud800", "link"])
def test_folders_that_cannot_be(lock, tmp_path, name):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / ".lock").symlink_to(tmp_path / "nowhere" / "else")

    @lock.one_at_a_time
    def run(config, workdir):
        pytest.fail("ran")

    with pytest.raises(lock.InputError, match=r"cannot be (written|used)"):
        run(None, f"{tmp_path}/{name}")
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]
    assert (tmp_path / "file").read_text() == "kept"


def test_the_home_folder_by_keyword(lock, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))

    @lock.one_at_a_time
    def run(config, workdir):
        return config, workdir, os.listdir(workdir)

    assert run(workdir="~/run", config=1) == (1, tmp_path / "run", [".lock"])


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS])
def test_a_folder_that_only_may_be_read(lock, tmp_path, monkeypatch, error):
    """A finished run of someone else's can be shown; whoever cannot write does no harm."""

    def refused(*args, **kwargs):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(lock.os, "open", refused)
    with pytest.raises(lock.InputError, match="cannot be written"), lock.locked(tmp_path):
        pass
    monkeypatch.setattr(lock.os, "access", lambda *args: False)
    with lock.locked(tmp_path):
        pass
    assert not os.listdir(tmp_path)


def test_a_file_system_without_locks(lock, tmp_path, monkeypatch):
    def unsupported(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    with pytest.warns(UserWarning, match="cannot be locked"), lock.locked(tmp_path / "run"):
        pass
    assert not os.listdir(tmp_path)
