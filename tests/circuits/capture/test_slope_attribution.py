"""Reading backwards through kept activations: exact where the model is linear, and nothing lost."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits_jax import interpose
from circuits_jax.capture import movement, slope_attribution
from circuits_jax.capture.forked import fork
from circuits_jax.decoder.config import NO_WINDOW
from circuits_jax.decoder.decoder import MLP, NORMS, Attention, Norm, layer_data
from tests.circuits import tiny

L, H, K, D = 3, 4, 4, 16
Q = 3  # tokens of an ending
POSITIVES = ("when Ann and Bob went out then Bob gave it to", "Ann and Bob went out")
NEGATIVES = ("when Ann and Cid went out then Dee gave it to", "Eve and Bob went to")
CONFIGS = {
    "llama": tiny.CONFIG,
    "gemma": dataclasses.replace(
        tiny.CONFIG, post_norms=True, qk_norm=True, out_bias=False, windows=(3, NO_WINDOW, 3)
    ),
    "neox": dataclasses.replace(
        tiny.CONFIG, norm="layer", parallel=True, gated_mlp=False, activation="gelu", tied=False
    ),
}
LINEAR = {
    "mlp": dataclasses.replace(
        tiny.CONFIG, norm="none", gated_mlp=False, activation="relu", mlp_bias=True
    ),
    "parallel": dataclasses.replace(
        tiny.CONFIG, norm="none", gated_mlp=False, activation="relu", mlp_bias=True, parallel=True
    ),
}


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def sides(model, length=12):
    return [model.tokenize(prompts, length, side="left") for prompts in (POSITIVES, NEGATIVES)]


@functools.partial(jax.jit, static_argnames="config")
def flows_of(config, params, forked):
    return slope_attribution.flows(config, params, forked)


def flows(model, positives, negatives, multiple=12):
    """By default with endings of all 12 tokens."""
    both = jax.tree.map(lambda *sides: jnp.concatenate(sides), positives, negatives)
    return flows_of(model.config, model.params, fork(both, multiple))


def linear_model(config):
    """Queries of zero look at every token alike; neurons far above zero are all active."""
    model = tiny.model(config)
    layers = model.params["layers"]
    model = tiny.with_attention(model, q=jnp.zeros_like(layers["attention"]["q"]))
    mlp = layers["mlp"]
    # Small weights: were the stream to grow, neurons would leave their linear part.
    mlp = mlp | {"up": 0.1 * mlp["up"], "down": 0.02 * mlp["down"]}
    mlp["up_bias"] = jnp.full_like(mlp["up_bias"], 20.0)
    layers = model.params["layers"] | {"mlp": mlp}
    return dataclasses.replace(model, params=model.params | {"layers": layers})


@pytest.mark.parametrize("name", LINEAR)
def test_in_a_linear_model_flow_is_the_exact_effect_of_patching(name):
    """Measured along p+ - p-: the drop of < logits, p+ - p- > when one head is replaced."""
    model = linear_model(LINEAR[name])
    config, params = model.config, model.params
    positives, negatives = sides(model)
    flow = flows(model, positives, negatives)
    # Only tokens that both prompts have are aligned; here all are.
    np.testing.assert_array_equal(positives.mask, negatives.mask)
    capture = jax.jit(interpose.capture, static_argnums=0)
    logits, _ = capture(config, params, positives)
    other, z = capture(config, params, negatives)
    direction = jax.nn.softmax(logits) - jax.nn.softmax(other)
    keep = 1 - jnp.eye(L * H).reshape(L * H, L, H)
    replaced = jax.jit(jax.vmap(lambda k: interpose.replace(config, params, positives, k, z)))
    effects = jnp.einsum("gbv,bv->bg", logits[None] - replaced(keep), direction)
    found = jnp.sum(flow.read, axis=2).swapaxes(0, 1).reshape(len(POSITIVES), L * H)
    assert np.abs(effects).max() > 1e-2
    np.testing.assert_allclose(found, effects, rtol=2e-3, atol=2e-3 * np.abs(effects).max())


@pytest.mark.parametrize("name", CONFIGS)
def test_flows_of_a_family(name):
    """Shapes; distances are those of outputs; the order of pairs changes nothing."""
    model = tiny.model(CONFIGS[name])
    positives, negatives = sides(model)
    flow = flows(model, positives, negatives)
    assert flow.moved.shape == (L, 2, 12, H, K)
    assert flow.read.shape == flow.distance.shape == (L, 2, 12, H)
    assert np.isfinite(flow.read).all()
    outputs = jnp.einsum("lbthk,lhkd->lbthd", flow.moved, model.params["layers"]["attention"]["o"])
    wanted = np.linalg.norm(outputs, axis=-1)
    np.testing.assert_allclose(flow.distance, wanted, rtol=1e-3, atol=1e-4 * wanted.max())
    assert (np.asarray(flow.read)[:, 1, :7] == 0).all()  # padding
    assert np.abs(flow.read).max() > 0
    turned = flows(model, *(jax.tree.map(lambda x: x[::-1], side) for side in sides(model)))
    np.testing.assert_allclose(
        turned.read[:, ::-1], flow.read, rtol=1e-3, atol=1e-4 * np.abs(flow.read).max()
    )
    same = flows(model, positives, positives)
    np.testing.assert_allclose(same.distance, 0, atol=1e-4)
    np.testing.assert_allclose(same.read, 0, atol=1e-4 * np.abs(flow.read).max())


@functools.cache
def records(name):
    model = tiny.model(CONFIGS[name])
    positives, _ = sides(model)

    @jax.jit
    def run(params):
        stream, record = interpose.record(model.config, params, positives, lambda record: record)
        return *interpose.record_final(model.config, params, stream[:, -1:]), record

    return model, positives, run(model.params)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_record_is_of_the_plain_forward_pass(name):
    model, batch, (logits, final_scale, record) = records(name)
    capture = jax.jit(lambda params: interpose.capture(model.config, params, batch))
    plain, z = capture(model.params)
    np.testing.assert_allclose(logits[:, 0], plain, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(record.z, z, rtol=1e-4, atol=1e-4)
    assert final_scale.shape == (2, 1, 1)
    assert "attention_norm" in record.inverse_scales
    assert set(record.neurons) == {"given", "active"} | (
        {"up"} if model.config.gated_mlp else set()
    )


def test_attention_is_read_by_the_transpose_of_its_derivative():
    """No norm of queries and keys is held still here, so nothing is approximate."""
    model, batch, (_, _, record) = records("llama")
    config, layer = model.config, 1
    own, data, record = jax.tree.map(
        lambda x: x[layer], (model.params["layers"], layer_data(config), record)
    )
    normed = Norm(config.norm, config.norm_eps).apply(
        {"params": own["attention_norm"]}, record.stream
    )
    attention = Attention(config)

    def attend(x):
        return attention.apply({"params": own["attention"]}, x, data, batch, method="attend")

    @jax.jit
    def by_derivative(of_ending):
        return jax.vjp(attend, normed)[1](of_ending)[0]

    read = jax.jit(slope_attribution.read_attention, static_argnums=0)

    weight = random(0, *record.z.shape) * batch.mask[:, :, None, None]
    for n in (12, Q):
        of_ending = jnp.where(jnp.arange(12)[:, None, None] < 12 - n, 0, weight)
        wanted = by_derivative(of_ending)
        moved = _moved(record, n)
        found = read(config, own["attention"], data, batch, moved, moved.pattern, of_ending[:, -n:])
        tolerance = 1e-4 * np.abs(wanted).max()
        np.testing.assert_allclose(found, wanted[:, -n:], rtol=1e-3, atol=tolerance)


@pytest.mark.parametrize("kind", NORMS)
def test_a_norm_is_read_with_its_scale_held_still(kind):
    norm, x, weight = Norm(kind, 1e-5), random(1, 3, D), random(2, 3, D)
    params = norm.init(jax.random.key(0), x).get("params", {})
    params |= {"scale": random(3, D)} if "scale" in params else {}
    centred = x - x.mean(-1, keepdims=True) if NORMS[kind].centred else x
    scales = {"mlp_norm": norm.apply({}, centred, method="inverse_scale")}
    config, own = dataclasses.replace(tiny.CONFIG, norm=kind), {"mlp_norm": params}
    found = slope_attribution.through_norm(config, own, "mlp_norm", scales, weight)
    said = np.asarray(norm.apply({"params": params}, x)) - np.asarray(params.get("bias", 0))
    np.testing.assert_allclose((x * found).sum(-1), (said * weight).sum(-1), rtol=1e-4, atol=1e-4)
    config = dataclasses.replace(config, pre_norms=False)
    assert slope_attribution.through_norm(config, own, "mlp_norm", scales, weight) is weight


@pytest.mark.parametrize("other", ["another prompt", "the same prompt"])
@pytest.mark.parametrize("gated", [True, False])
def test_neurons_lose_nothing_of_what_an_mlp_says(gated, other):
    """Of the difference of two prompts; of gated ones each factor counts half.

    Where the two are the same at every token, of what the MLP says altogether.
    """
    config = dataclasses.replace(tiny.CONFIG, gated_mlp=gated, norm="none")
    mlp, x, weight = MLP(config), random(4, 2, 12, D), random(5, 2, 12, D)
    own = mlp.init(jax.random.key(0), x)["params"]
    same = other == "the same prompt"
    x2 = x if same else random(13, 2, 12, D)

    def neurons(x):
        given = x @ own["gate" if gated else "up"]
        return {"given": given, "active": jax.nn.silu(given)} | (
            {"up": x @ own["up"]} if gated else {}
        )

    nowhere = jnp.zeros((*x.shape[:2], 1), bool)
    slopes = movement.neuron_slopes(neurons(x), neurons(x2), nowhere)
    active, active2 = (neurons(x)["active"] for x in (x, x2))
    dx, said = (x, active) if same else (x - x2, active - active2)
    if gated:
        up, d_up = x @ own["up"], dx @ own["up"]
        said = (said * up + active * d_up) / 2
    record = jax.tree.map(lambda x: x[0], records("llama")[2][2])
    moved = _moved(record).replace(slopes=slopes, inverse_scales={})
    read = slope_attribution.read_mlp(config, {"mlp": own}, moved, weight)
    wanted = ((said @ own["down"]) * weight).sum(-1)
    np.testing.assert_allclose((dx * read).sum(-1), wanted, rtol=1e-3, atol=1e-5)


def test_a_step_that_was_taken_counts_in_full():
    """A neuron that only the negative prompt's input wakes: its derivative at the positive is 0."""
    given, other = jnp.array([[[-1.0, 2.0]]]), jnp.array([[[3.0, 1.0]]])
    slopes = _relu_slopes(given, other)
    np.testing.assert_allclose(slopes[0, 0], [3 / 4, 1], rtol=1e-6)


def test_a_neuron_that_both_give_the_same_counts_by_its_other_tokens():
    """Half, and half by what it is given now: asleep it is not lost, nor where two make a step.

    Tokens without a partner are not looked at.
    """
    given = jnp.array([[[-1.0, 2.0], [2.0, -3.0], [5.0, 7.0]]])
    other = given.at[:, 1].set(jnp.array([3.0, 1.0])).at[:, 2].set(-9.0)
    slopes = _relu_slopes(given, other, given[..., :1] != 5)
    np.testing.assert_allclose(slopes[0, :2], [[3 / 8, 7 / 10], [1, 1 / 4]], rtol=1e-6)
    alone = _relu_slopes(given, given, given[..., :1] != -1)[0, 0]  # the first has no partner
    np.testing.assert_array_equal(alone, [0, 1])
    slopes = _relu_slopes(given, given)
    np.testing.assert_allclose(slopes[0, 0], [5 / 12, (1 + 7 / 10) / 2], rtol=1e-6)
    np.testing.assert_array_equal(_relu_slopes(given[:, :1], given[:, :1])[0, 0], [0, 1])


def _relu_slopes(given, other, shared=True):
    shared = jnp.broadcast_to(shared, (*given.shape[:2], 1))
    return movement.activation_slopes(given, other, jax.nn.relu(given), jax.nn.relu(other), shared)


@pytest.mark.parametrize("sharpness", [1.0, 20.0])
def test_the_logarithmic_mean_is_the_softmax_slope_between_two_rows(sharpness):
    """M (c - mean) ds, summed, is the whole of dA c; also where both patterns are hard."""
    scores, other, credit = (random(seed, 6, 5) for seed in (14, 15, 16))
    scores, other = (jnp.clip(x * sharpness, -30, 30) for x in (scores, other))
    a, b = jax.nn.softmax(scores), jax.nn.softmax(other)
    m = slope_attribution.logarithmic_mean(a, b)
    assert (m <= (a + b) / 2 + 1e-6).all()
    assert (m >= 0.99 * jnp.sqrt(a * b)).all()
    mean = (m * credit).sum(-1, keepdims=True) / m.sum(-1, keepdims=True)
    found = (m * (credit - mean) * (scores - other)).sum(-1)
    np.testing.assert_allclose(found, ((a - b) * credit).sum(-1), rtol=1e-3, atol=1e-4)


def test_patterns_between_a_prompt_and_itself_are_its_own():
    model, batch, (_, _, record) = records("llama")
    config = model.config
    own, data, record = jax.tree.map(
        lambda x: x[1], (model.params["layers"], layer_data(config), record)
    )
    between = jax.jit(slope_attribution.patterns_between, static_argnums=0)
    for n in (12, Q):
        moved = _moved(record, n)
        found, _ = between(config, own["attention"], data, batch, moved)
        np.testing.assert_allclose(found, moved.pattern, rtol=1e-4, atol=1e-5)


def _moved(record, n=12):
    """Of one layer, the prompts of a pair being the same; endings of n tokens."""
    return movement.Moved(
        z=jnp.zeros_like(record.z[:, -n:]),
        mlp=jnp.zeros_like(record.mlp[:, -n:]),
        relative=jnp.zeros_like(record.z[:, -n:]),
        mlp_relative=jnp.zeros_like(record.mlp[:, -n:]),
        q=record.q[:, -n:],
        k=record.k,
        v=record.v,
        other_q=record.q[:, -n:],
        other_k=record.k,
        pattern=record.pattern[..., -n:, :],
        slopes={},
        inverse_scales={name: x[:, -n:] for name, x in record.inverse_scales.items()},
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_pair_begins_with_alike_needs_no_reading(name):
    """Endings of the tokens that differ give what whole prompts give; nothing moves before."""
    model = tiny.model(CONFIGS[name])
    positives = "Ann and Bob went to Cid", "when Ann and Bob went"
    negatives = "Ann and Bob gave it out", "when Ann and Dee gave"
    positives, negatives = (model.tokenize(x, 12, side="left") for x in (positives, negatives))
    short, whole = flows(model, positives, negatives, 1), flows(model, positives, negatives)
    n = short.read.shape[2]
    assert n == 3
    for x, y in zip(jax.tree.leaves(short), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(x, y[:, :, -n:], rtol=1e-3, atol=1e-4 * np.abs(y).max())
        assert np.abs(y[:, :, :-n]).max() <= 1e-5 * np.abs(y).max()
