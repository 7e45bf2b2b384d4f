"""Rotary frequencies: against transformers' functions, and what the formulas imply."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits_jax.decoder.rotary import rotary_frequencies, rotate
from circuits_jax.runs.errors import InputError
from tests.goldens.circuits import make_decoder_goldens as MAKER

GOLDENS = Path(__file__).parents[2] / "goldens" / "circuits"


@pytest.mark.parametrize("name", MAKER.ROPES)
def test_frequencies_equal_transformers(name):
    with np.load(GOLDENS / "decoder.npz") as file:
        *want, want_scale = file[f"rope/{name}"]
    got, scale = rotary_frequencies(
        MAKER.ROPES[name], MAKER.ROPE_WIDTH, MAKER.ROPE_POSITIONS, "tiny"
    )
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(scale, want_scale, rtol=1e-6)


@settings(deadline=None)
@given(
    name=st.sampled_from(sorted(set(MAKER.ROPES) - {"dynamic", "longrope"})),
    width=st.integers(1, 64).map(lambda half: 2 * half),
    factor=st.floats(1.0, 64.0),
)
def test_scaling_never_speeds_up_and_divides_by_the_factor_at_most(name, width, factor):
    rope = MAKER.ROPES[name] | {"factor": factor}
    plain, _ = rotary_frequencies({"rope_theta": rope["rope_theta"]}, width, 4096, "tiny")
    scaled, scale = rotary_frequencies(rope, width, 4096, "tiny")
    ratio = np.array(scaled) / np.array(plain)
    assert len(scaled) == width // 2
    assert np.all(ratio <= 1 + 1e-12)
    assert np.all(ratio >= 1 / factor - 1e-12)
    assert np.all(np.diff(scaled) <= 0)
    assert scale > 0


def test_null_fields_count_as_absent():
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
    nulls = dict.fromkeys(("attention_factor", "beta_fast", "mscale"))
    want = rotary_frequencies(rope, 64, 4096, "tiny")
    assert rotary_frequencies(rope | nulls, 64, 4096, "tiny") == want
    named = rope | {"original_max_position_embeddings": 4096}
    assert rotary_frequencies(named, 64, 99, "tiny") == want


def test_unknown_scalings_are_refused():
    with pytest.raises(InputError, match=r"^tiny: rope_type 'ntk'.*default, dynamic, linear"):
        rotary_frequencies({"rope_theta": 1e4, "rope_type": "ntk"}, 64, 4096, "tiny")


def test_rotary_positions_matter_by_their_distance_only():
    """Queries and keys moved together by any offset keep their products."""
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 5, 2, 8))
    frequencies, scale = jnp.array([1.0, 0.2, 0.05]), jnp.array(1.0)

    def products(offset):
        positions = offset + jnp.arange(5)[None]
        a, b = (rotate(x, positions, frequencies, scale) for x in (q, k))
        return jnp.einsum("bthk,bshk->bhts", a, b)

    np.testing.assert_allclose(products(0), products(37), atol=2e-4)
    assert np.abs(products(0) - jnp.einsum("bthk,bshk->bhts", q, k)).max() > 0.1
    rotated = rotate(q, jnp.arange(5)[None], frequencies, scale)
    np.testing.assert_array_equal(rotated[..., 6:], q[..., 6:])  # partial: the rest stays
    np.testing.assert_allclose(
        jnp.linalg.norm(rotated, axis=-1), jnp.linalg.norm(q, axis=-1), rtol=1e-5
    )
