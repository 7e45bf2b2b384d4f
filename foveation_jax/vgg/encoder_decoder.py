"""The vgg route's networks: VGG to relu4_1 and its mirrored decoder (Huang & Belongie 2017).

NeuroFovea (Deza, Jonnalagadda & Eckstein, arXiv 1705.10041) sees an image [N, Y, X, 3] in [0, 1] as
relu4_1 of a "normalised" VGG19, features [N, Y/8, X/8, 512]: a 1 x 1 colour convolution, then 3 x 3
convolutions with reflection padding and max-pooling that rounds sizes up. The decoder runs the same
convolutions backwards with nearest upsampling. Neither is trained here; `vgg_weights` loads them
and `vgg_training` trains a decoder.

A network is a dictionary of layers {"color", "conv1_1", "conv1_2", ...}, each {"kernel": [K, K, C,
D], "bias": [D]}; its depth is read off the names, so VGG11, VGG16 and VGG19 are the same code.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from foveation_jax.runs.precision import einsum
from foveation_jax.vgg import winograd

# Convolutions in blocks 1 to 3; block 4 stops after its first one.
BLOCKS = {"vgg19": (2, 2, 4), "vgg16": (2, 2, 3), "vgg11": (1, 1, 2)}
WIDTHS = (64, 128, 256, 512)
STRIDE = 8  # pixels a feature cell

Network = dict[str, dict[str, Float[Array, "..."]]]


def layer_shapes(blocks: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """(input, output) channels of the encoder's 3 x 3 layers, in order, "conv1_1" to "conv4_1"."""
    shapes, channels = {}, 3
    for block, count in enumerate((*blocks, 1)):
        for layer in range(count):
            shapes[f"conv{block + 1}_{layer + 1}"] = (channels, WIDTHS[block])
            channels = WIDTHS[block]
    return shapes


def encode(
    encoder: Network, images: Float[Array, "N Y X 3"]
) -> tuple[Float[Array, "N P Q C"], ...]:
    """Activations after the first convolution of each block: relu1_1, relu2_1, relu3_1, relu4_1.

    Sides are halved three times, rounded up; at least 16 px. The last item is the code that the
    decoder takes.
    """
    x = _convolve(images, encoder["color"])
    firsts = []
    for name in sorted(set(encoder) - {"color"}):
        starts_block = name.endswith("_1")
        if starts_block and firsts:
            x = _pool(x)
        x = jax.nn.relu(_convolve(_reflect(x), encoder[name]))
        if starts_block:
            firsts.append(x)
    return tuple(firsts)


def decode(decoder: Network, features: Float[Array, "N P Q C"]) -> Float[Array, "N Y X 3"]:
    """Image of relu4_1 features, not clipped: the encoder's layers backwards, 8 times the size."""
    names = sorted(decoder, reverse=True)
    x = features
    for name in names:
        x = _convolve(_reflect(x), decoder[name])
        if name != names[-1]:
            x = jax.nn.relu(x)
            if name.endswith("_1"):
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return x


@jax.jit
def reconstruct(
    encoder: Network, decoder: Network, images: Float[Array, "N Y X 3"]
) -> Float[Array, "N Y X 3"]:
    """The route's Reference: decode(encode(images)) at the images' size, clipped to [0, 1]."""
    decoded = decode(decoder, encode(encoder, images)[-1])
    return jnp.clip(decoded[:, : images.shape[1], : images.shape[2]], 0, 1)


def init_decoder(key: PRNGKeyArray, encoder: Network) -> Network:
    """Random decoder for `encoder` (He normal kernels, zero biases), to be trained."""
    layers = {name: layer for name, layer in encoder.items() if name != "color"}
    keys = jax.random.split(key, len(layers))
    decoder = {}
    for layer_key, (name, layer) in zip(keys, layers.items(), strict=True):
        height, width, outputs, inputs = layer["kernel"].shape  # the mirror swaps the channels
        spread = jnp.sqrt(2 / (height * width * inputs))
        kernel = spread * jax.random.normal(layer_key, (height, width, inputs, outputs))
        decoder[name] = {"kernel": kernel, "bias": jnp.zeros(outputs)}
    return decoder


def _convolve(x: Float[Array, "N Y X C"], layer: dict) -> Float[Array, "N P Q D"]:
    """Convolution without padding, plus bias."""
    kernel = layer["kernel"]
    if kernel.shape[:2] == (1, 1):
        y = einsum("nyxc,cd->nyxd", x, kernel[0, 0])
    else:
        y = winograd.convolve(x, kernel)
    return y + layer["bias"][None, None, None]


def _reflect(x: Float[Array, "N Y X C"]) -> Float[Array, "N P Q C"]:
    """One pixel more on each side, mirrored without the edge pixel."""
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")


def _pool(x: Float[Array, "N Y X C"]) -> Float[Array, "N P Q C"]:
    """Largest of 2 x 2 pixels; odd sides are rounded up, the last window being cut."""
    odd = [(0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)]
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), odd)
