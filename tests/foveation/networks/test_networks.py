"""Networks against torchvision, the CPU's convolution against the platform's, and hostile input."""

import functools
import pathlib
import runpy

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from foveation_jax import networks
from foveation_jax.networks import convolution, layers
from foveation_jax.networks.pooling import max_pool
from foveation_jax.runs.errors import InputError

GOLDENS = pathlib.Path(__file__).parents[2] / "goldens" / "foveation"
SCRIPT = runpy.run_path(str(GOLDENS / "networks.py"))
GOLDEN = np.load(GOLDENS / "networks.npz")
IMAGE = jnp.zeros((1, 64, 64, 3))


def golden_state_dict(network):
    prefix = f"{network}/shape/"
    names = [name for name in GOLDEN if name.startswith(prefix)]
    return SCRIPT["state_dict"]({n.removeprefix(prefix): tuple(GOLDEN[n]) for n in names})


def assert_close(actual, expected):
    """Largest difference below 2e-5 of the largest value."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def assert_outputs(label, logits, out):
    assert_close(logits, GOLDEN[f"{label}/logits"])
    expected = {k.split("/out/")[1]: GOLDEN[k] for k in GOLDEN if k.startswith(f"{label}/out/")}
    assert set(out) == set(expected)
    for name, values in expected.items():
        assert_close(SCRIPT["sample"](out[name]), values)


@pytest.mark.parametrize("name", list(networks.NETWORKS))
def test_logits_and_every_activation_agree_with_torchvision(name):
    network = networks.make_network(name, SCRIPT["N_CLASSES"])
    variables = networks.from_torch(name, golden_state_dict(name))
    for size in SCRIPT["SIZES"][name]:
        logits, out = jax.jit(network.apply)(variables, SCRIPT["images"](size))
        assert_outputs(f"{name}/{size[0]}x{size[1]}", logits, out)


def test_batch_statistics_agree_with_torchvision():
    name, size = SCRIPT["TRAINING"]
    network = networks.make_network(name, SCRIPT["N_CLASSES"])
    variables = networks.from_torch(name, golden_state_dict(name))
    apply = jax.jit(lambda v, x: network.apply(v, x, train=True, mutable=["batch_stats"]))
    (logits, out), updated = apply(variables, SCRIPT["images"](size))
    assert_outputs("training", logits, out)
    stats = updated["batch_stats"]
    tested = 0
    for ours, theirs in networks.torch_names.RESNET18.items():
        if "bn" in ours:
            for part in ("mean", "var"):
                value = stats
                for step in (*ours.split("/"), part):
                    value = value[step]
                assert_close(value[:8], GOLDEN[f"training/stats/{theirs}.running_{part}"])
                tested += 1
    assert tested == sum("training/stats" in name for name in GOLDEN) == 40


@pytest.mark.parametrize(("side", "stride", "padding"), [(3, 2, 0), (3, 2, 1), (2, 2, 0)])
def test_max_pool_and_its_rule_for_ties_are_torchs(side, stride, padding):
    values, weights = SCRIPT["pooling_input"]()
    pool = jax.jit(lambda x: max_pool(x, side, stride, padding))
    y, transpose = jax.vjp(pool, jnp.asarray(values))
    label = f"maximum/{side}{stride}{padding}"
    np.testing.assert_array_equal(y, GOLDEN[f"{label}/y"])
    (dx,) = transpose(jnp.asarray(weights[:, : y.shape[1], : y.shape[2]]))
    np.testing.assert_allclose(dx, GOLDEN[f"{label}/dx"], atol=1e-6)


def test_max_pool_passes_nan_on():
    x = np.zeros((9, 3, 3, 1), np.float32)
    x.reshape(9, 9)[np.diag_indices(9)] = np.nan  # each place in turn
    assert bool(jnp.isnan(jax.jit(lambda x: max_pool(x, 3, 2))(x)).all())


@pytest.mark.parametrize("side", [6, 7, 20])
def test_average_pool_is_torchs_for_any_size(side):
    pooled = layers.average_pool_to(jnp.asarray(SCRIPT["pooling_input"]()[1]), side)
    np.testing.assert_allclose(pooled, GOLDEN[f"average/{side}"], atol=1e-6)


@pytest.mark.parametrize(
    ("size", "side", "stride", "padding"),
    [((9, 12), 3, 1, 1), ((13, 10), 5, 1, 2), ((23, 30), 6, 4, 2), ((8, 9), 1, 2, 0)],
)
@pytest.mark.parametrize("held", [10**9, 2000])
def test_products_of_patches_are_the_convolution_and_its_gradients(
    size, side, stride, padding, held, monkeypatch
):
    monkeypatch.setattr(convolution, "PATCH_VALUES", held)
    random = np.random.RandomState(0)
    x = jnp.asarray(random.randn(2, 5, *size, 3), jnp.float32)  # 2 runs; 5 images don't divide
    kernel = jnp.asarray(random.randn(2, side, side, 3, 4), jnp.float32)
    results = []
    for form in (convolution._products, convolution._direct):

        @jax.jit
        def evaluate(x, kernel, form=form):
            y, transpose = jax.vjp(jax.vmap(lambda x, k: form(x, k, stride, padding)), x, kernel)
            return y, transpose(jnp.sin(y))

        results.append(evaluate(x, kernel))
    jax.tree.map(assert_close, *results)


def test_convolution_of_an_accelerator_is_its_own():
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 9, 9, 3), (3, 3, 3, 4))]
    jitted = jax.jit(lambda x, kernel: convolution.convolve(x, kernel, 1, 1))
    for platform, convolves in (("cpu", False), ("tpu", True), ("cuda", True)):
        text = jitted.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.convolution" in text) == convolves


def constant_variables(network, value, runs=()):
    """Every parameter and statistic the same number: no draws to compile."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), IMAGE)
    return jax.tree.map(lambda leaf: jnp.full((*runs, *leaf.shape), value), shapes)


@pytest.mark.parametrize(
    ("initial", "deviation"),
    [
        (layers.uniform, np.sqrt(1 / 3 / (9 * 20))),
        (layers.normal_fan_out, np.sqrt(2 / (9 * 50))),
        (layers.normal_hundredth, 0.01),
    ],
)
def test_initial_weights_have_the_published_spread(initial, deviation):
    layer = layers.Conv(50, 3, initial=initial)
    params = layer.init(jax.random.key(0), jnp.zeros((1, 9, 9, 20)))["params"]
    np.testing.assert_allclose(params["kernel"].std(), deviation, rtol=0.03)
    if initial is layers.uniform:
        bound = np.sqrt(3) * deviation
        assert 0.99 * bound < float(jnp.abs(params["kernel"]).max()) <= bound * (1 + 1e-6)
        assert 0 < float(jnp.abs(params["bias"]).max()) <= bound * (1 + 1e-6)
    else:
        np.testing.assert_array_equal(params["bias"], 0)


@pytest.mark.parametrize(
    ("name", "conv", "linear"),
    [
        ("alexnet", layers.uniform, layers.uniform),
        ("resnet18", layers.normal_fan_out, layers.uniform),
        ("vgg11", layers.normal_fan_out, layers.normal_hundredth),
    ],
)
def test_every_layer_starts_as_torchvisions(name, conv, linear):
    expected = {layers.Conv: conv, layers.Linear: linear}
    seen = []

    def look(function, arguments, keywords, context):
        if type(context.module) in expected and context.method_name == "__call__":
            seen.append((type(context.module), context.module.initial))
        return function(*arguments, **keywords)

    with nn.intercept_methods(look):
        jax.eval_shape(networks.make_network(name, 5).init, jax.random.key(0), IMAGE)
    assert set(seen) == set(expected.items())


def test_dropout_follows_its_key_and_sleeps_in_evaluation():
    network = networks.make_network("alexnet", 5, width=0.02)
    silent = networks.make_network("alexnet", 5, width=0.02, dropout=0.0)
    variables = constant_variables(network, 0.05)
    images = jnp.abs(SCRIPT["images"]((64, 64)))

    @jax.jit
    def evaluate(keys):
        def train(network, key):
            return network.apply(variables, images, True, rngs={"dropout": key})[0]

        awake = [train(network, key) for key in keys]
        return *awake, train(silent, keys[0]), network.apply(variables, images)[0]

    one, other, none, evaluated = evaluate(jax.random.split(jax.random.key(1)))
    assert float(jnp.abs(one - other).max()) > 1e-2 * float(jnp.abs(none).max())
    np.testing.assert_allclose(evaluated, none, rtol=1e-6)


@pytest.mark.parametrize(("name", "side"), [("alexnet", 11), ("resnet18", 7), ("vgg11", 3)])
def test_variables_of_runs_give_their_filters(name, side):
    variables = constant_variables(networks.make_network(name, 5, width=0.05), 0.0, (3,))
    assert networks.first_layer_filters(variables).shape == (3, side, side, 3, 3)


def test_bfloat16_images_are_computed_in_bfloat16_with_statistics_in_float32():
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.bfloat16)
    for name in networks.NETWORKS:
        network = networks.make_network(name, 5, width=0.05)
        variables = jax.eval_shape(network.init, jax.random.key(0), IMAGE)
        assert {v.dtype for v in jax.tree.leaves(variables)} == {np.dtype("float32")}
        logits, out = jax.eval_shape(network.apply, variables, images)
        assert {v.dtype for v in jax.tree.leaves((logits, out))} == {jnp.dtype("bfloat16")}
    x = jnp.asarray(SCRIPT["pooling_input"]()[1], jnp.bfloat16)
    norm = layers.BatchNorm()
    y, updated = norm.apply(
        norm.init(jax.random.key(0), x, False), x, True, mutable=["batch_stats"]
    )
    mean = x.astype(jnp.float32).mean((0, 1, 2))
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * mean, rtol=1e-4)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32).std((0, 1, 2)), 1, atol=0.01)


def test_flops_are_the_published_ones():
    published = {"alexnet": 0.714, "resnet18": 1.814, "vgg11": 7.609}  # torchvision's GFLOPS, by 2
    for name, billions in published.items():
        network = networks.make_network(name, 1000)
        assert networks.flops(network, (224, 224)) == pytest.approx(2e9 * billions, rel=1e-3)


def test_normalise_takes_imagenets_colours_to_zero():
    mean = jnp.asarray([[0.485, 0.456, 0.406]])
    np.testing.assert_allclose(networks.normalise(mean), 0, atol=1e-6)
    np.testing.assert_allclose(networks.normalise(mean + 0.225)[0, 2], 1, atol=1e-6)


@pytest.mark.parametrize(("name", "least"), [("alexnet", 63), ("vgg11", 32)])
def test_images_too_small_are_refused_and_the_least_size_is_named(name, least):
    network = networks.make_network(name, 5, width=0.02)
    shape = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, least, least, 3)))
    with pytest.raises(InputError, match=f"{least - 1} x 200 is too small .* {least} x {least} or"):
        jax.eval_shape(network.apply, shape, jnp.zeros((1, least - 1, 200, 3)))


@pytest.mark.parametrize(
    ("name", "classes", "options", "message"),
    [
        ("alexnett", 5, {}, "network is 'alexnett'; allowed are alexnet, resnet18, vgg11"),
        ("alexnet", 1, {}, "n_classes is 1; allowed is 2 and above"),
        ("alexnet", 5, {"widht": 1.0}, "alexnet has no option 'widht': the nearest is 'width'"),
        ("resnet18", 5, {"dropout": 0.5}, "resnet18 has no option 'dropout'"),
        ("vgg11", 5, {"width": 0.0}, "width is 0.0; allowed is above 0$"),
        ("vgg11", 5, {"dropout": 1.0}, r"dropout is 1.0; allowed is 0 to below 1"),
    ],
)
def test_networks_that_cannot_be_are_refused(name, classes, options, message):
    with pytest.raises(InputError, match=message):
        networks.make_network(name, classes, **options)


def test_training_batch_statistics_on_one_value_is_refused():
    network = networks.make_network("resnet18", 5, width=0.02)
    variables = jax.eval_shape(network.init, jax.random.key(0), IMAGE)
    train = functools.partial(network.apply, train=True, mutable=["batch_stats"])
    with pytest.raises(InputError, match="needs two values or more a channel"):
        jax.eval_shape(train, variables, IMAGE[:, :8, :8])


def test_state_dicts_of_another_network_are_refused():
    tensors = golden_state_dict("resnet18")
    with pytest.raises(InputError, match=r"alexnet needs features\.0\.weight, missing"):
        networks.from_torch("alexnet", tensors)
    with pytest.raises(InputError, match=r"resnet18 has no more\.weight \(1 tensors"):
        networks.from_torch("resnet18", tensors | {"more.weight": np.zeros(3)})
    spoilt = tensors | {"fc.bias": np.full(7, np.nan)}
    with pytest.raises(InputError, match=r"fc\.bias holds values that are not finite"):
        networks.from_torch("resnet18", spoilt)
