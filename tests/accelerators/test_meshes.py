"""The same results on meshes of any shape, and what the mesh makes of flags."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from circuits_jax.capture.head_outputs import read_outputs
from circuits_jax.lm import placement
from circuits_jax.methods import METHODS
from circuits_jax.runs import devices, mesh
from foveation_jax.runs.mesh import each_image, layout, runs_mesh, shard_batch
from foveation_jax.training.step import init_state, make_step
from tests.accelerators import circuits_programs
from tests.accelerators.test_lowering import inside
from tests.circuits import tiny
from tests.foveation import tiny_training


@pytest.fixture(autouse=True)
def _default_mesh():
    yield
    devices.use(None)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("", (2, 1)),
        ("data:2", (2, 1)),
        ("model:2", (1, 2)),
        ("data:1,model:2", (1, 2)),
        ("model:1,data:2", (2, 1)),
    ],
)
def test_a_mesh_has_the_shape_that_is_named(text, shape):
    assert devices.mesh_of(text, jax.devices()).devices.shape == shape


@pytest.mark.parametrize(
    "text", ["data", "data:0", "data:-1", "data:x", "heads:2", "data:1,data:2", "data:3", "model:1"]
)
def test_other_meshes_are_refused_with_a_sentence(text):
    with pytest.raises(devices.InputError, match=r"--mesh.*"):
        devices.mesh_of(text, jax.devices())


def test_weights_are_split_by_the_table_and_whole_where_they_cannot_be():
    params = tiny.model().params
    places = placement.shardings(params, devices.mesh_of("model:2", jax.devices()))
    specs = {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(place.spec)
        for path, place in jax.tree_util.tree_leaves_with_path(places)
    }
    assert specs["layers/attention/q"] == (None, None, "model")  # 4 heads
    assert specs["layers/attention/o"] == (None, "model")
    assert specs["layers/mlp/down"] == (None, "model")
    assert specs["embedding"] == ()  # a vocabulary of 17
    assert specs["layers/attention/o_bias"] == ()


@pytest.mark.parametrize("method", ["sae_codes", "attribution"])
def test_a_model_that_is_split_says_the_same(method):
    def scores(text):
        devices.use(devices.mesh_of(text, jax.devices()))
        model = tiny.model()
        model = dataclasses.replace(model, params=placement.place(model.params))
        found = METHODS[method].run(model, tiny.task(), jax.random.key(0), None)
        return np.asarray(found.head_scores)

    together, split = scores("data:2"), scores("data:1,model:2")
    np.testing.assert_allclose(split, together, rtol=1e-5, atol=1e-5 * np.abs(together).max())


@pytest.mark.parametrize(
    ("text", "width", "split"),
    [("data:1,model:2", 6, 1), ("data:1,model:2", 5, 0), ("data:2", 6, 0)],
)
def test_the_last_axis_lies_along_model_where_that_divides_it(text, width, split):
    devices.use(devices.mesh_of(text, jax.devices()))

    def shared(rows):
        return mesh.shared_out(lambda rows, _: mesh.shared_by_model(rows), rows, 0)

    text = str(jax.make_jaxpr(shared)(np.ones((2, width))))
    assert text.count("sharding_constraint[") == split


def test_what_is_read_of_a_model_that_is_split_stays_where_it_is():
    devices.use(devices.mesh_of("data:1,model:2", jax.devices()))
    model = tiny.model()
    model = dataclasses.replace(model, params=placement.place(model.params))
    moved = read_outputs(model, tiny.task().learn)  # [B L H D], of 4 heads
    assert {shard.data.shape[2] for shard in moved.addressable_shards} == {2}


def products(jaxpr, times=1):
    """Multiplications that one device does, as often as loops do them."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (summed, _), _ = equation.params["dimension_numbers"]
            sides = [equation.invars[0].aval.shape[axis] for axis in summed]
            total += times * math.prod((*equation.outvars[0].aval.shape, *sides))
        often = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += sum(products(inner, times * often) for inner in inside(equation))
    return total


# One forward pass, and the views of one pair, which is looked at by itself.
NOT_SPREAD = {"decoder", "nodes of a pair"}


def test_devices_share_the_work_of_every_program():
    """A third more than half of it on each of two: what prepares it, and autoencoders are 14."""
    each = []
    for n in (1, 2):
        devices.use(devices.mesh_of(f"data:{n}", jax.devices()[:n]))
        programs = circuits_programs.programs(pairs=4).items()
        each.append({name: products(program.traced().jaxpr.jaxpr) for name, program in programs})
    shares = {name: each[1][name] / alone for name, alone in each[0].items()}
    assert {name for name, share in shares.items() if share > 2 / 3} == NOT_SPREAD
    assert all(shares[name] == 1 for name in NOT_SPREAD)


@pytest.mark.parametrize(
    ("runs", "batch", "shape"),
    [(10, 1, (2, 1)), (1, 128, (1, 2)), (5, 128, (1, 2)), (5, 129, (1, 1)), (1, 8, (1, 1))],
)
def test_devices_beyond_the_runs_share_their_batches(runs, batch, shape):
    assert runs_mesh(runs, batch).devices.shape == (*shape, 1)


@pytest.mark.parametrize(
    ("n_devices", "runs", "batch", "alone", "hosts"),
    [
        (2, 2, 8, (2, 1), (2, 1)),
        (3, 2, 16, (2, 1), (1, 1)),
        (4, 2, 16, (2, 2), (2, 2)),
        (256, 10, 128, (10, 16), (2, 16)),
        (256, 100, 128, (100, 2), (4, 16)),
    ],
)
def test_a_program_of_several_hosts_runs_on_all_of_their_devices(
    n_devices, runs, batch, alone, hosts
):
    assert layout(n_devices, runs, batch, whole=False) == alone
    assert layout(n_devices, runs, batch, whole=True) == hosts


def test_a_run_that_several_devices_share_learns_the_same():
    setup = tiny_training.setup(n_runs=1, batch_size=16)
    images = tiny_training.images(16)
    batch = images.images[None], images.labels[None]

    def stepped():
        state = init_state(setup)
        state, loss = make_step(setup)(state, *shard_batch(batch, setup.mesh))
        return jax.tree.map(np.asarray, (state.variables, state.momentum, loss))

    shared, n_devices = stepped(), setup.mesh.size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foveation_jax.runs.mesh.LEAST", 100)
        alone = stepped()
        assert (n_devices, setup.mesh.size) == (2, 1)
    for one, other in zip(*map(jax.tree.leaves, (shared, alone)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


def test_images_are_worked_on_together_on_an_accelerator_and_in_turn_on_a_cpu():
    traced = jax.jit(lambda x: each_image(lambda y: y @ y, x)).trace(
        jax.ShapeDtypeStruct((3, 4, 4), "float32")
    )
    texts = {p: traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda", "tpu")}
    together = {p: "tensor<3x4x4xf32>, tensor<3x4x4xf32>" in text for p, text in texts.items()}
    assert together == {"cpu": False, "cuda": True, "tpu": True}
