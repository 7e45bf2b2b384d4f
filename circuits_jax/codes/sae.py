"""Step 3 of the method: ONE head's discrete sparse autoencoder, as pure functions.

    h     = relu((x - b) W_e + c)                 activations of F codes, [N F]
    x_hat = h W_d + b                             reconstruction, [N R]
    loss  = |x_hat - x|^2 / (N D) + lambda |h|_1 / N
    code  = argmax_F h, or F where no code is active            (arXiv 2405.12522, s. 3.2)

The bias b is tied. Each code's reading direction (a column of W_e) and its dictionary vector (a row
of W_d) has unit norm: steps along them are removed from the gradient, and the norm is restored
after every step. The variant `topk` keeps the k largest activations (arXiv 2406.04093).

The autoencoder may work in an orthonormal basis of R <= D vectors (`isometric_basis`). D stays the
divisor of the loss, so that lambda means the same in every basis.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float, Int

from circuits_jax.runs.eigen import eigh
from circuits_jax.runs.precision import einsum, matmul


@dataclasses.dataclass(frozen=True)
class SaeConfig:
    """How an autoencoder is shaped and trained; the defaults are the published ones.

    Attributes:
        n_codes: F.
        activation: `relu`, with the L1 penalty, or `topk`.
        k: activations kept by `topk`.
        steps: full-batch Adam steps.
    """

    n_codes: int = 200
    activation: Literal["relu", "topk"] = "relu"
    k: int = 4
    steps: int = 500


@struct.dataclass
class Settings:
    """Numbers that may differ from one autoencoder to the next; `fit` maps over them."""

    l1: float | Float[Array, "*P"] = 0.02
    learning_rate: float | Float[Array, "*P"] = 1e-3


@struct.dataclass
class SaeParams:
    """Parameters of one autoencoder, or of many on leading axes."""

    encoder: Float[Array, "*axes R F"]
    encoder_bias: Float[Array, "*axes F"]
    decoder: Float[Array, "*axes F R"]
    bias: Float[Array, "*axes R"]


def init(
    rng: np.random.Generator, width: int, config: SaeConfig, axes: tuple[int, ...] = ()
) -> SaeParams:
    """Random unit directions and zero biases, for inputs of R = `width`.

    One autoencoder, or `axes` of them; the first of many are those of fewer.
    """
    return SaeParams(*jax.device_put(init_leaves(rng, width, config, axes)))


def init_leaves(
    rng: np.random.Generator, width: int, config: SaeConfig, axes: tuple[int, ...] = ()
) -> list[np.ndarray]:
    """The leaves of `SaeParams` on the host: [*axes R F], [*axes F], [*axes F R], [*axes R].

    XLA takes longer to compile a draw than all autoencoders take to train.
    """
    directions = rng.standard_normal((*axes, 2, config.n_codes, width), np.float32)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    encoder, decoder = np.moveaxis(directions, -3, 0)
    biases = np.zeros((*axes, config.n_codes), np.float32), np.zeros((*axes, width), np.float32)
    return [encoder.swapaxes(-1, -2), biases[0], decoder, biases[1]]


def unit_norm(params: SaeParams) -> SaeParams:
    """Params with reading directions and dictionary vectors scaled to norm 1."""

    def scaled(x, axis):
        return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis, keepdims=True), 1e-30))

    return dataclasses.replace(
        params, encoder=scaled(params.encoder, 0), decoder=scaled(params.decoder, 1)
    )


def tangent(gradient: SaeParams, params: SaeParams) -> SaeParams:
    """The gradient without its parts along the unit-norm directions."""

    def across(g, x, axis):
        return g - x * jnp.sum(g * x, axis, keepdims=True)

    return dataclasses.replace(
        gradient,
        encoder=across(gradient.encoder, params.encoder, 0),
        decoder=across(gradient.decoder, params.decoder, 1),
    )


def encode(params: SaeParams, x: Float[Array, "N R"], config: SaeConfig) -> Float[Array, "N F"]:
    """Activations of the codes, none negative."""
    h = jax.nn.relu(matmul(x - params.bias[None], params.encoder) + params.encoder_bias[None])
    if config.activation == "topk":
        least = jax.lax.top_k(h, config.k)[0][:, -1:]
        h = jnp.where(h >= least, h, 0)
    return h


def decode(params: SaeParams, h: Float[Array, "N F"]) -> Float[Array, "N R"]:
    """The reconstruction of x from its codes."""
    return matmul(h, params.decoder) + params.bias[None]


def loss(
    params: SaeParams, x: Float[Array, "N R"], settings: Settings, config: SaeConfig, d_model: int
) -> Float[Array, ""]:
    """Mean squared error a component of R^D, plus lambda times the mean L1 norm of a row of h."""
    h = encode(params, x, config)
    error = jnp.sum((decode(params, h) - x) ** 2) / d_model
    penalty = settings.l1 * jnp.sum(h) if config.activation == "relu" else 0.0
    return (error + penalty) / x.shape[0]


def train(
    params: SaeParams,
    x: Float[Array, "N R"],
    settings: Settings,
    config: SaeConfig,
    d_model: int,
) -> tuple[SaeParams, Float[Array, " steps"]]:
    """Full-batch Adam from `params`; returns the last ones and the loss before every step."""
    adam = optax.flatten(optax.scale_by_adam())

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, x, settings, config, d_model)
        update, state = adam.update(tangent(gradient, params), state)
        params = jax.tree.map(lambda p, u: p - settings.learning_rate * u, params, update)
        return (unit_norm(params), state), value

    (params, _), losses = jax.lax.scan(step, (params, adam.init(params)), length=config.steps)
    return params, losses


def code(h: Float[Array, "*N F"]) -> Int[Array, "*N"]:
    """The strongest code of each row, in [0, F); F for a row in which no code is active."""
    return jnp.where(jnp.max(h, axis=-1) > 0, jnp.argmax(h, axis=-1), h.shape[-1])


def isometric_basis(
    x: Float[Array | np.ndarray, "*heads N D"], width: int
) -> Float[Array, "*heads N R"]:
    """Coordinates of the rows of x in an orthonormal basis of their span, R = `width` numbers each.

    Inner products of rows, and so every loss whose parameters lie in the span, are kept exactly
    where width >= the rank of x (at most N, and for a head's outputs at most K). Adam, the unit
    norms and the random start see R dimensions in place of D, so the training runs differ.

    Computed from the Gram matrix: columns are its scaled eigenvectors, largest first. Which of its
    two directions an eigenvector has is rounding's choice, and would be another on every device;
    here it is that of the earlier rows, whose weights 1, 1/2, 1/3, ... no pair of rows that differ
    by their sign alone can cancel.
    """
    gram = einsum("...nd,...md->...nm", x, x)
    values, vectors = eigh(gram)
    order = slice(None, -width - 1, -1)
    coordinates = vectors[..., order] * jnp.sqrt(jnp.maximum(values[..., None, order], 0))
    towards = einsum("n,...nr->...r", 1 / jnp.arange(1.0, x.shape[-2] + 1), coordinates)
    return coordinates * jnp.where(towards < 0, -1, 1)[..., None, :]
