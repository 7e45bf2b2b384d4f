"""The record of a run's folder knows the code of systems that are not the library's own."""

import functools
import importlib
import sys

import pytest

import foveation_jax as fj
from foveation_jax import transforms
from foveation_jax.config import transforms_run
from foveation_jax.jobs.workdir import claim_workdir, code_of, fingerprints
from foveation_jax.runs.errors import InputError


@pytest.mark.parametrize("changed", ["own_system.py", "own_parts/level.py"])
def test_a_registered_system_that_changed_is_another_experiment(tmp_path, monkeypatch, changed):
    monkeypatch.setattr(transforms, "SYSTEMS", dict(transforms.SYSTEMS))
    monkeypatch.setattr("foveation_jax.jobs.workdir.SYSTEMS", transforms.SYSTEMS)
    (tmp_path / "own_parts").mkdir()
    (tmp_path / "own_parts" / "__init__.py").write_text("")
    (tmp_path / "own_parts" / "level.py").write_text("LEVEL = 0.5\n")
    (tmp_path / "own_system.py").write_text(
        "from own_parts import level\n"
        "def dim(images, key, *, by=1.0):\n    return images * level.LEVEL * by\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_system", raising=False)
    own_system = importlib.import_module("own_system")
    fj.register("dim", functools.partial(own_system.dim, by=0.5))
    systems, config = ("reference", "dim"), transforms_run()
    assert code_of(systems[:1]) == {}

    def claim():
        claim_workdir(tmp_path / "run", config, fingerprints(tmp_path / "run", code_of(systems)))

    (tmp_path / "run").mkdir()
    claim()
    claim()
    (tmp_path / changed).write_text((tmp_path / changed).read_text() + "LEVEL = 0.25\n")
    with pytest.raises(InputError, match=r"systems=.* names has changed since"):
        claim()
