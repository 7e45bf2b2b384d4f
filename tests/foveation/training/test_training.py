"""One training step, its schedule, its pairing and its guards; parity with PyTorch's SGD."""

import functools
import json
import math
import pathlib
import re
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveation_jax.networks import from_torch, make_network
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.mesh import each_run, runs_mesh, shard_runs
from foveation_jax.training import loop
from foveation_jax.training.optimiser import Recipe, change_epochs, learning_rate
from foveation_jax.training.step import (
    Purpose,
    Setup,
    init_state,
    make_step,
    run_key,
    state_shapes,
    train_step,
)
from tests.foveation import tiny_training as tiny

GOLDENS = pathlib.Path(__file__).parents[2] / "goldens" / "foveation"
SCRIPT = runpy.run_path(str(GOLDENS / "training_steps.py"))


def step(setup, state, batch):
    """One step that leaves `state` usable."""
    mesh = runs_mesh(setup.n_runs)
    copy = shard_runs(jax.tree.map(np.array, state), mesh)
    return make_step(setup)(copy, *shard_runs(batch, mesh))


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def differ(a, b):
    return any(np.any(x != y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module")
def state():
    return jax.tree.map(np.asarray, init_state(tiny.setup()))


# ---- the recipe


def test_published_schedules():
    alexnet = Recipe()
    resnet = Recipe(80, 128, (0.05, 0.0125, 0.003125), (0.2, 0.4))
    assert change_epochs(alexnet) == [30, 60]
    assert change_epochs(resnet) == [16, 32]
    rates = [float(learning_rate(alexnet, epoch)) for epoch in (0, 29, 30, 59, 60, 119)]
    np.testing.assert_allclose(rates, [0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025])


@given(st.integers(1, 300), st.lists(st.floats(0, 1), max_size=4).map(sorted))
def test_changes_are_rounded_up_to_whole_epochs(epochs, fractions):
    recipe = Recipe(epochs, 1, (0.1,) * (len(fractions) + 1), tuple(fractions))
    for change, fraction in zip(change_epochs(recipe), fractions, strict=True):
        assert change - 1 < fraction * epochs <= change + 1e-8


def test_more_epochs_are_at_the_last_rate_and_move_no_change():
    recipe, more = Recipe(), Recipe(more_epochs=60)
    assert change_epochs(more) == change_epochs(recipe)
    assert (recipe.all_epochs, more.all_epochs) == (120, 180)
    assert float(learning_rate(more, 179)) == pytest.approx(0.0025)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("more_epochs", -1),
        ("batch_size", 0),
        ("learning_rates", ()),
        ("learning_rates", (0.1, -0.1, 0.1)),
        ("learning_rates", (0.1, math.nan, 0.1)),
        ("changes", (0.5,)),
        ("changes", (0.5, 0.25)),
        ("changes", (0.5, 2)),
        ("momentum", 1.0),
        ("weight_decay", -1e-4),
        ("precision", "float16"),
    ],
)
def test_recipes_out_of_range_are_refused(field, value):
    with pytest.raises(InputError, match=rf"^{field} (is|has) .*; allowed (is|are) .*$"):
        Recipe(**{field: value})


def test_fewer_images_than_the_batch_are_refused():
    with pytest.raises(InputError, match=r"batch_size is 4.*the 3 training images"):
        tiny.setup(n_images=3)


# ---- PyTorch


@pytest.mark.parametrize("name", list(SCRIPT["SIZES"]))
def test_two_steps_equal_those_of_torch(name):
    golden = {
        key.removeprefix(f"{name}:"): value
        for key, value in np.load(GOLDENS / "training_steps.npz").items()
        if key.startswith(f"{name}:")
    }
    shapes = {k[6:]: tuple(v) for k, v in golden.items() if k.startswith("shape:")}
    weights = SCRIPT["random_weights"](shapes, 11)
    start, places = from_torch(name, weights), _torch_places(name, weights)
    pixels, labels = SCRIPT["batches"](name)
    setup = _torch_setup(name, pixels.shape[2:4])
    runs = setup.n_runs
    state = jax.tree.map(lambda v: np.zeros(v.shape, v.dtype), state_shapes(setup))
    state = state.replace(
        diverged_at=state.diverged_at - 1,
        **{k: jax.tree.map(lambda v: np.stack([v] * runs), v) for k, v in start.items()},
    )
    losses = []
    for part in range(SCRIPT["STEPS"]):
        batch = (np.stack([v[part]] * runs) for v in (pixels, labels))
        state, loss = step(setup, state, tuple(batch))
        losses.append(loss)
    np.testing.assert_allclose(np.asarray(losses), golden["losses"][:, None].repeat(runs, 1), 1e-4)
    momentum = {"params": state.momentum}
    for run in range(runs):
        after, moving = (
            _in_torch_order(jax.tree.map(lambda v: np.asarray(v)[run], tree), places, weights)  # noqa: B023
            for tree in (state.variables, momentum)
        )
        for key, before in weights.items():
            sampled = SCRIPT["sampled"](before.size)
            change = golden[f"after:{key}"][:-1] - before.ravel()[sampled]
            ours = (after[key] - before.ravel())[sampled]
            assert np.abs(ours - change).max() < 1e-4 * np.abs(change).max() + 1e-7, key
            if "running" not in key:
                *expected, largest = golden[f"momentum:{key}"]
                assert np.abs(moving[key][sampled] - expected).max() < 1e-4 * largest, key


def _torch_setup(name, size):
    options = {} if name == "resnet18" else {"dropout": 0.0}
    network = make_network(name, SCRIPT["CLASSES"], width=SCRIPT["WIDTH"], **options)
    recipe = Recipe(
        epochs=1,
        batch_size=SCRIPT["BATCH"],
        learning_rates=(SCRIPT["LEARNING_RATE"],),
        changes=(),
        momentum=SCRIPT["MOMENTUM"],
        weight_decay=SCRIPT["WEIGHT_DECAY"],
    )
    return Setup(network, recipe, 3, 0, SCRIPT["BATCH"] * SCRIPT["STEPS"], tuple(size))


def _torch_places(name, weights):
    """Variables whose values are the places of the weights in one flat vector, torch's order."""
    sizes = [v.size for v in weights.values()]
    assert sum(sizes) < 2**24  # whole numbers in float32
    starts = np.cumsum([0, *sizes[:-1]])
    numbered = {
        key: (start + np.arange(v.size, dtype=np.float32)).reshape(v.shape)
        for start, (key, v) in zip(starts, weights.items(), strict=True)
    }
    return from_torch(name, numbered)


def _in_torch_order(tree, places, weights):
    """Torch's name -> flat values of `tree`; tensors that it does not hold are zero."""
    flat = np.zeros(sum(v.size for v in weights.values()), np.float32)
    for collection in tree:
        if tree[collection]:
            jax.tree.map(
                lambda place, values: flat.__setitem__(np.asarray(place, int), values),
                places[collection],
                tree[collection],
            )
    ends = np.cumsum([v.size for v in weights.values()])
    return dict(zip(weights, np.split(flat, ends[:-1]), strict=True))


# ---- pairing


def test_a_run_s_first_weights_depend_on_seed_and_run_alone(state):
    more = init_state(tiny.setup(n_runs=3, epochs=9, learning_rates=(1.0, 0.5)))
    first_two = jax.tree.map(lambda v: np.asarray(v)[:2], more)
    assert_equal(first_two, jax.tree.map(np.asarray, state))
    assert differ(more.params["fc"]["kernel"][0], more.params["fc"]["kernel"][1])
    assert differ(init_state(tiny.setup(seed=2)).params, state.params)
    np.testing.assert_array_equal(more.run, [0, 1, 2])


def test_dropout_differs_between_runs_and_steps_and_is_the_same_again(state):
    setup, batch = tiny.setup(), tiny.batch()
    same = jax.tree.map(lambda v: np.stack([v[0]] * tiny.RUNS), state)
    same = same.replace(run=state.run)
    _, losses = step(setup, same, batch)
    assert losses[0] != losses[1]
    _, later = step(setup, same.replace(step=same.step + 1), batch)
    assert differ(losses, later)
    assert_equal(losses, step(setup, same, batch)[1])


def test_stage_1_on_the_fly_gets_a_key_of_seed_run_and_step(state):
    def perceive(images, key):
        return images ^ jax.random.bits(key, (images.size,), jnp.uint8).reshape(images.shape)

    pixels, labels = tiny.batch()
    state = state.replace(step=state.step + 5)
    seen = [
        perceive(image, jax.random.fold_in(run_key(1, Purpose.PERCEPTION, run), 5))
        for run, image in enumerate(pixels)
    ]
    on_the_fly, loss = step(tiny.setup(perceive=perceive), state, (pixels, labels))
    beforehand, expected = step(tiny.setup(), state, (np.stack(seen), labels))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), on_the_fly, beforehand)


def test_stage_1_on_the_fly_is_given_the_fixations_of_the_batch(state):
    """Those of the run and of the image, also where devices share them."""

    def perceive(images, key, fixations):
        return images ^ (fixations @ jnp.array([1.0, 16.0])).astype(jnp.uint8)[:, None, None, None]

    pixels, labels = tiny.batch()
    at = np.random.default_rng(0).integers(0, 16, (tiny.RUNS, tiny.BATCH, 2)).astype(np.float32)
    seen = np.stack([perceive(images, None, own) for images, own in zip(pixels, at, strict=True)])
    on_the_fly, loss = step(tiny.setup(perceive=perceive), state, (pixels, labels, at))
    beforehand, expected = step(tiny.setup(), state, (seen, labels))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), on_the_fly, beforehand)


@pytest.mark.parametrize(("runs", "devices"), [(1, 1), (2, 2), (3, 1), (4, 2)])
def test_devices_share_runs_evenly(runs, devices):
    assert runs_mesh(runs).size == devices


# ---- options


RESTARTING = {"restart_momentum": True, "network": tiny.TinyNetwork(dropout=0.0)}


def test_momentum_restarts_with_every_epoch(state):
    length, batch = tiny.setup().steps_per_epoch, tiny.batch()
    moving, _ = step(tiny.setup(), state, batch)
    still = moving.replace(momentum=jax.tree.map(np.zeros_like, moving.momentum))
    for options, at, forgets in (
        (RESTARTING, length, True),
        (RESTARTING, 1, False),
        ({}, 6, False),
    ):
        setup = tiny.setup(**options)
        ends = [
            step(setup, s.replace(step=np.full_like(s.step, at)), batch)[0].params
            for s in (moving, still)
        ]
        assert differ(*ends) != forgets


def test_bfloat16_computes_coarsely_and_keeps_float32(state):
    batch = tiny.batch()
    fine, loss = step(tiny.setup(), state, batch)
    coarse, coarse_loss = step(tiny.setup(precision="bfloat16"), state, batch)
    kept = {leaf.dtype for leaf in jax.tree.leaves((coarse.variables, coarse.momentum))}
    assert kept == {jnp.dtype("float32")}
    np.testing.assert_allclose(coarse_loss, loss, rtol=0.03)
    assert differ(coarse_loss, loss)
    change, coarse_change = (s.params["fc"]["kernel"] - state.params["fc"]["kernel"]
                             for s in (fine, coarse))  # fmt: skip
    assert np.abs(coarse_change - change).max() < 0.1 * np.abs(change).max()


def test_learning_rate_falls_within_the_compiled_step(state):
    setup, batch = tiny.setup(**RESTARTING), tiny.batch()
    change = 2 * setup.steps_per_epoch  # from 0.1 to 0.02, after half of the epochs
    before, after = (
        jax.tree.map(
            np.subtract,
            step(setup, state.replace(step=np.full_like(state.step, at)), batch)[0].params,
            state.params,
        )
        for at in (change - 1, change)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 5 * b, atol=1e-6), before, after)


# ---- guards


def test_a_run_with_a_bad_weight_stands_still_and_is_named(state):
    setup, batch = tiny.setup(), tiny.batch()
    kernel = state.params["conv"]["kernel"].copy()
    kernel[1, 0, 0] = np.nan
    bad = state.replace(params=state.params | {"conv": state.params["conv"] | {"kernel": kernel}})
    after, losses = step(setup, bad.replace(step=bad.step + 6), batch)
    after, _ = step(setup, after, batch)
    assert np.isfinite(losses[0])
    assert not np.isfinite(losses[1])
    np.testing.assert_array_equal(after.diverged_at, [-1, 7])
    run = jax.tree.map(lambda v: v[1], (after.params, after.batch_stats, after.momentum))
    assert_equal(run, jax.tree.map(lambda v: v[1], (bad.params, bad.batch_stats, bad.momentum)))
    with pytest.raises(
        InputError,
        match=r"reference, run 1: .*not finite at step 7; .* inf, in conv/kernel, at learning rate "
        r"0\.1; lower learning_rates\.$",
    ):
        loop.stop_if_diverged(setup, "reference", after)
    with pytest.raises(InputError, match=r"run 1: the test loss is not finite at step 8; "):
        loop.epoch_row(setup, "reference", 1, after, tiny.images(12, 1))


def test_a_training_that_diverges_stops_and_keeps_what_was_whole(tmp_path):
    setup = tiny.setup(learning_rates=(1e25,), changes=())
    with pytest.raises(InputError, match=r"run \d: .* at step \d; .* learning rate 1e\+25; lower"):
        loop.train(setup, "reference", tiny.images(), tiny.images(12, 1), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0]


def test_images_of_another_size_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"there are 26 of 16 x 16, and .* for 25 of 16 x 16"):
        loop.train(tiny.setup(n_images=25), "reference", tiny.images(), tiny.images(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_runs_are_one_after_another_on_an_accelerator_and_together_on_a_cpu(name):
    network = make_network(name, tiny.CLASSES, width=0.125)
    setup = tiny.setup(network=network, size=(64, 64), n_runs=4)
    state = jax.eval_shape(lambda: init_state(setup))
    images = jax.ShapeDtypeStruct((4, tiny.BATCH, 64, 64, 3), np.uint8)
    labels = jax.ShapeDtypeStruct((4, tiny.BATCH), np.int32)
    traced = make_step(setup).trace(state, images, labels)
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.convolution" in text
        groups = re.findall(r"(?:feature|batch)_group_count = (\d+)", text)
        assert set(groups) == {"1"}
        assert "stablehlo.while" in text
        assert "stablehlo.optimization_barrier" in text
    assert "stablehlo.convolution" not in traced.lower(lowering_platforms=("cpu",)).as_text()


@pytest.fixture
def accelerator(monkeypatch):
    """What an accelerator is given is compiled here."""
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *runs, cpu, default: default(*runs))


def test_runs_in_turn_are_runs_together(state, request):
    step = functools.partial(train_step, tiny.setup())
    batch = tiny.batch()

    def after(**options):
        return jax.jit(lambda *a: each_run(step, *a, **options))(state, *batch)

    together = after()
    request.getfixturevalue("accelerator")
    assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(assert_close, together, after())
    jax.tree.map(assert_close, together, after(updates=True))


def test_runs_in_turn_are_written_over_the_old(accelerator):
    setup = tiny.setup(network=tiny.TinyNetwork(features=64), n_runs=64)
    images = jax.ShapeDtypeStruct((64, tiny.BATCH, *tiny.SIZE, 3), np.uint8)
    labels = jax.ShapeDtypeStruct((64, tiny.BATCH), np.int32)
    compiled = make_step(setup).lower(state_shapes(setup), images, labels).compile()
    memory = compiled.memory_analysis()
    beside = memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    assert beside < memory.alias_size_in_bytes / 4  # all runs' weights and momentum
