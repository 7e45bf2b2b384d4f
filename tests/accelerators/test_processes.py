"""Two processes of one device each end as one does; where one is killed, the other ends."""

import signal
import time

import numpy as np
import pytest

from circuits_jax.runs import devices
from tests.accelerators.layouts import ended, launch, results


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


def test_two_processes_end_as_one_and_only_the_first_writes(folder):
    first, second = launch("circuits_jax", folder, folder / "two", processes=2)
    for process in (first, second):
        code, out, err = ended(process)
        assert code == 0, err
        assert ("Report" in out) == (process is first)
    (alone,) = launch("circuits_jax", folder, folder / "one")
    assert ended(alone)[0] == 0
    one, two = (results("circuits_jax", folder / name) for name in ("one", "two"))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    assert (folder / "one/circuit.json").read_bytes() == (folder / "two/circuit.json").read_bytes()


def test_where_one_is_killed_the_other_ends_within_a_minute(folder):
    """With a sentence: ours, or the runtime's, by what it was waiting for."""
    first, second = launch("circuits_jax", folder, folder / "killed", processes=2)
    while not (folder / "killed" / "config.json").exists():  # both are at work
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.05)
    second.send_signal(signal.SIGKILL)
    code, _, err = ended(first, 60)
    ended(second)
    assert code != 0
    assert any(word in err for word in ("another has ended", *devices.LOST)), err
