"""Prompts share a pass as far as their attention patterns fit the memory that is set aside."""

import jax
import numpy as np
import pytest

from circuits_jax.capture import head_outputs
from circuits_jax.runs import mesh
from tests.accelerators import circuits_programs
from tests.circuits import tiny


@pytest.mark.parametrize("each", [1, mesh.HELD // 3, mesh.HELD, 2 * mesh.HELD])
def test_as_many_are_worked_on_as_fit_and_never_none(each):
    assert mesh.fitting(8, each) == {1: 8, mesh.HELD // 3: 3}.get(each, 1)


@pytest.mark.parametrize("name", ["attribution", "edge attribution", "exact patching"])
def test_a_program_of_long_prompts_needs_a_fraction_of_the_memory(name, monkeypatch):
    program = circuits_programs.programs(pairs=4, tokens=48)[name]

    def temporaries():
        jax.clear_caches()
        compiled = jax.jit(program.function).lower(*program.arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    together = temporaries()
    monkeypatch.setattr(mesh, "HELD", 1)
    assert temporaries() < 0.6 * together


def test_long_pairs_are_read_in_parts_and_alike(monkeypatch):
    model, pairs = tiny.model(), tiny.task().learn
    whole = np.asarray(head_outputs.read_outputs(model, pairs))
    both = head_outputs.forked(model, pairs)
    held = model.config.n_layers * model.config.pattern_bytes(both.length)
    devices = mesh.devices.mesh().shape[mesh.DATA]
    for fit in (1, 2):
        monkeypatch.setattr(mesh, "HELD", fit * held)
        parts = list(head_outputs._in_parts(model, both, 32))
        assert len(parts) == -(-len(pairs) // (fit * devices))
    np.testing.assert_allclose(head_outputs.read_outputs(model, pairs), whole, atol=1e-6)
