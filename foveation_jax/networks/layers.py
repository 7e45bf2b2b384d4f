"""Layers of stage 2 as torchvision's networks have them (all channels last).

Parameters are float32 and are used in the type of the input, so a network computes in bfloat16 on
bfloat16 images. Convolution and pooling are `convolution` and `pooling`: fast forms, also under
`vmap` over runs.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from foveation_jax.networks.convolution import convolve
from foveation_jax.runs.errors import InputError

# (fan in, fan out) -> initialisers of kernel and bias
Initialisers = Callable[[int, int], tuple[Callable, Callable]]


def uniform(fan_in: int, fan_out: int) -> tuple[Callable, Callable]:
    """PyTorch's default: kernel and bias uniform in +-1/sqrt(fan in)."""
    del fan_out

    def draw(key, shape):
        flat = jax.random.uniform(key, (int(np.prod(shape)),), minval=-1, maxval=1)
        return flat.reshape(shape) / np.sqrt(fan_in, dtype=np.float32)

    return draw, draw


def normal_fan_out(fan_in: int, fan_out: int) -> tuple[Callable, Callable]:
    """He et al. (arXiv 1502.01852) for ReLU, backwards: deviation sqrt(2/fan out); no bias."""
    del fan_in
    return _normal(np.sqrt(2 / fan_out)), nn.initializers.zeros


def normal_hundredth(fan_in: int, fan_out: int) -> tuple[Callable, Callable]:
    """VGG's fully connected layers: deviation .01; no bias."""
    del fan_in, fan_out
    return _normal(0.01), nn.initializers.zeros


def _normal(deviation: float) -> Callable:
    """Draws flat, since many-dimensional draws take XLA seconds to compile."""

    def draw(key, shape):
        return np.float32(deviation) * jax.random.normal(key, (int(np.prod(shape)),)).reshape(shape)

    return draw


class Conv(nn.Module):
    """K x K convolution [N, Y, X, C] -> [N, P, Q, features], zeros around, plus bias."""

    features: int
    side: int
    stride: int = 1
    padding: int = 0
    use_bias: bool = True
    initial: Initialisers = uniform

    @nn.compact
    def __call__(self, x: Float[Array, "N Y X C"]) -> Float[Array, "N P Q D"]:
        """P = floor((Y + 2 padding - side) / stride) + 1."""
        shape = (self.side, self.side, x.shape[-1], self.features)
        places = self.side**2
        kernel_init, bias_init = self.initial(places * x.shape[-1], places * self.features)
        kernel = self.param("kernel", kernel_init, shape).astype(x.dtype)
        y = convolve(x, kernel, self.stride, self.padding)
        if self.use_bias:
            bias = self.param("bias", bias_init, (self.features,))
            y = y + bias.astype(x.dtype)[None, None, None]
        return y


class Linear(nn.Module):
    """Fully connected layer [N, C] -> [N, features]."""

    features: int
    initial: Initialisers = uniform

    @nn.compact
    def __call__(self, x: Float[Array, "N C"]) -> Float[Array, "N D"]:
        """X W + b."""
        kernel_init, bias_init = self.initial(x.shape[-1], self.features)
        kernel = self.param("kernel", kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", bias_init, (self.features,))
        return x @ kernel.astype(x.dtype) + bias.astype(x.dtype)[None]


class BatchNorm(nn.Module):
    """Batch normalisation over [N, Y, X], PyTorch's: eps 1e-5, momentum .1.

    Training divides by the batch's biased deviation and moves the running variance towards the
    unbiased one. Statistics are float32.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "N Y X C"], train: bool) -> Float[Array, "N Y X C"]:
        """(x - mean) / sqrt(var + eps) * scale + bias; raises InputError where N Y X = 1."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        mean, var = running_mean.value, running_var.value
        if train:
            count = x.size // x.shape[-1]
            if count < 2:
                raise InputError(
                    "batch: batch normalisation needs two values or more a channel to train on, "
                    f"the batch of shape {x.shape} has one."
                )
            values = x.astype(jnp.float32)
            mean = values.mean((0, 1, 2))
            var = jnp.square(values - mean[None, None, None]).mean((0, 1, 2))
            if not self.is_initializing():
                running_mean.value = 0.9 * running_mean.value + 0.1 * mean
                running_var.value = 0.9 * running_var.value + 0.1 * var * (count / (count - 1))
        factor = scale * jax.lax.rsqrt(var + 1e-5)
        shift = bias - mean * factor
        return (x * factor[None, None, None] + shift[None, None, None]).astype(x.dtype)


def average_pool_to(x: Float[Array, "N Y X C"], side: int) -> Float[Array, "N P P C"]:
    """Adaptive average pooling: cell i averages rows floor(i Y/P) to ceil((i + 1) Y/P) - 1.

    Any size gives [side, side]; a smaller input is repeated.
    """
    for axis in (1, 2):
        if x.shape[axis] != side:
            cells = jnp.asarray(_cells(x.shape[axis], side), x.dtype)
            x = jnp.moveaxis(jnp.tensordot(cells, x, (1, axis), precision="highest"), 0, axis)
    return x


def _cells(size: int, side: int) -> np.ndarray:
    """[side, size] weights of the mean in each cell."""
    cell, place = np.arange(side)[:, None], np.arange(size)[None]
    inside = (place >= cell * size // side) & (place < -(-(cell + 1) * size // side))
    return inside / inside.sum(1, keepdims=True)


def scaled(channels: int, width: float) -> int:
    """Channels of a network of that width; one or more."""
    return max(1, round(channels * width))


def require_size(images: Float[Array, "N Y X C"], least: int, network: str) -> None:
    """Raises InputError where an image is smaller than the network can take."""
    height, width = images.shape[1:3]
    if min(height, width) < least:
        raise InputError(
            f"images: {height} x {width} is too small for {network}, "
            f"which needs {least} x {least} or more."
        )


class FullyConnected(nn.Module):
    """Normalised images [N, Y, X, 3] -> logits [N, L] and activations by name.

    Attributes:
        n_classes: L.
        width: factor of all channel counts but the last.
        dropout: rate at both hidden fully connected layers.
    """

    n_classes: int
    width: float = 1.0
    dropout: float = 0.5
