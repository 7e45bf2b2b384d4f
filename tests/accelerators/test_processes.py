"""Processes of one device each end as one process does; where one is killed, the other ends."""

import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from circuits_jax.runs import devices
from foveation_jax.runs.devices import mesh_of
from foveation_jax.training import loop
from tests.accelerators.layouts import ROOT, ended, free_port, launch, results
from tests.foveation import tiny_training


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


def test_training_is_that_of_as_many_devices_of_one_process(folder, monkeypatch):
    """Bit for bit; and that of one device but for rounding: there XLA adds up in another order."""
    place = f"localhost:{free_port()}"
    cache = os.environ["JAX_COMPILATION_CACHE_DIR"]
    one_each = os.environ["XLA_FLAGS"].replace("device_count=2", "device_count=1")
    environment = os.environ | {"XLA_FLAGS": one_each}
    command = [sys.executable, "-m", "tests.foveation.tiny_training", str(folder / "fov"), cache]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen([*command, place, "2", str(i)], env=environment, cwd=ROOT, **pipes)
        for i in range(2)
    ]

    def trained(name):
        data = tiny_training.images(), tiny_training.images(12, 1)
        (folder / name).mkdir()
        loop.train(tiny_training.setup(), "reference", *data, folder / name, tiny_training.KEEPING)
        return results("foveation_jax", folder / name)

    together = trained("devices")
    with monkeypatch.context() as patch:
        patch.setattr(
            "foveation_jax.runs.mesh.devices.mesh", lambda: mesh_of("", jax.devices()[:1])
        )
        alone = trained("alone")
    for process in processes:
        code, _, err = ended(process)
        assert code == 0, err
    apart = results("foveation_jax", folder / "fov")
    assert apart.keys() == together.keys() == alone.keys()
    for name, values in together.items():
        np.testing.assert_array_equal(apart[name], values, name)
        np.testing.assert_allclose(alone[name], values, rtol=1e-5, err_msg=name)
