"""Every point of the table is somewhere in every family that has the part, and nowhere else."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax.decoder.decoder import Decoder
from circuits_jax.interpose import points
from tests.circuits import tiny

CONFIGS = {
    "plain": dataclasses.replace(tiny.CONFIG, gated_mlp=False),
    "post norms": dataclasses.replace(tiny.CONFIG, post_norms=True, qk_norm=True, out_bias=False),
    "experts": dataclasses.replace(
        tiny.CONFIG,
        n_experts=2,
        n_chosen=1,
        d_mlp=2 * tiny.CONFIG.d_mlp,
    ),
    "no mlp": dataclasses.replace(tiny.CONFIG, d_mlp=0, norm="none"),
}
IN_A_LAYER = {"resid_pre": 1, "qkv": 3, "qkv_cut": 3, "pattern": 1, "z": 1, "attn_out": 1}
WITH_MLP = IN_A_LAYER | {"mlp_in": 1, "activation": 1, "mlp_out": 1}
TOLD = {
    "plain": WITH_MLP | {"inverse_scale": 2 + 1},  # and the final norm, once
    "post norms": WITH_MLP | {"gate": 1, "inverse_scale": 2 + 2 + 2 + 1},
    "experts": WITH_MLP | {"gate": 1, "shares": 1, "expert_neurons": 1, "inverse_scale": 2 + 1},
    "no mlp": IN_A_LAYER,
}


def logits(model, context):
    """The logits of a pass within `context`."""
    batch = model.tokenize(("Ann and Bob", "Cid"))
    with context:
        return Decoder(model.config).apply({"params": model.params}, batch)


@pytest.mark.parametrize("name", CONFIGS)
def test_points_are_told_once_a_layer(name):
    told = collections.defaultdict(set)

    def keep(point):
        return lambda module, value, *args: told[point].add(
            (module.path, args[0] if isinstance(args[0], str) else "")
        )

    context = points.observed(**{point: keep(point) for point in points.POINTS})
    model = tiny.model(CONFIGS[name])
    jax.eval_shape(lambda: logits(model, context))
    assert {point: len(places) for point, places in told.items()} == TOLD[name]


def test_what_is_edited_is_what_goes_on():
    def zeros(module, call, *args):
        return jax.tree.map(jnp.zeros_like, call(*args))

    def same(module, call, *args):
        return call(*args)

    edits = {"none": {}, "same": dict.fromkeys(points.POINTS, same)}
    edits |= {point: {point: zeros} for point in ("z", "attn_out", "mlp_out", "mlp_in")}
    model = tiny.model(CONFIGS["post norms"])
    found = jax.jit(lambda: {n: logits(model, points.intercepted(**e)) for n, e in edits.items()})()
    plain = found.pop("none")
    np.testing.assert_allclose(found.pop("same"), plain, atol=1e-6)
    for point, changed in found.items():
        assert np.abs(changed - plain).max() > 1e-3, point
    np.testing.assert_allclose(found["z"], found["attn_out"], atol=1e-6)  # no bias in W_O
    np.testing.assert_allclose(found["mlp_in"], found["mlp_out"], atol=1e-6)  # and none in MLPs


def test_a_point_that_is_not_there():
    with pytest.raises(KeyError, match="hook_z"):
        points.intercepted(hook_z=jnp.sin).__enter__()
