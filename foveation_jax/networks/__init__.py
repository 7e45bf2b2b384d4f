"""Stage 2: AlexNet, ResNet18 and VGG11 in linen, equal to torchvision's layer by layer.

    network = make_network("alexnet", n_classes=20, width=0.25)
    variables = network.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    logits, out = network.apply(variables, normalise(images))

Variables are {"params": ...} and, for ResNet18, {"batch_stats": ...}. Training passes `train=True`,
`rngs={"dropout": key}` and, for ResNet18, `mutable=["batch_stats"]`. `vmap` over variables and
images trains V runs in one program; `convolution` keeps that fast on a CPU.
"""

import difflib
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Float

from foveation_jax.networks.alexnet import AlexNet
from foveation_jax.networks.resnet import ResNet18
from foveation_jax.networks.torch_names import from_torch
from foveation_jax.networks.vgg11 import VGG11
from foveation_jax.runs.checks import Range, check_allowed
from foveation_jax.runs.errors import InputError
from foveation_jax.vgg.weight_files import IMAGENET_DEVIATION, IMAGENET_MEAN

__all__ = ["NETWORKS", "first_layer_filters", "flops", "from_torch", "make_network", "normalise"]

NETWORKS: dict[str, type[nn.Module]] = {"alexnet": AlexNet, "resnet18": ResNet18, "vgg11": VGG11}
OPTIONS = {"width": Range(0, open=(0,)), "dropout": Range(0, 1, open=(1,))}
_FIRST_LAYERS = ("conv1", "conv1_1")


def make_network(name: str, n_classes: int, **options) -> nn.Module:
    """The network `name` of NETWORKS with its last layer for `n_classes`.

    Options: `width` (> 0, factor of all channel counts) and, but for resnet18, `dropout` in [0, 1).

    Raises:
        InputError: unknown network or option, or a value out of range.
    """
    check_allowed("network", name, NETWORKS)
    check_allowed("n_classes", n_classes, Range(2))
    known = set(NETWORKS[name].__dataclass_fields__) - {"n_classes", "parent", "name"}
    for option, value in options.items():
        if option not in known:
            nearest = difflib.get_close_matches(option, known, 1, 0)
            raise InputError(f"{name} has no option {option!r}: the nearest is {nearest[0]!r}.")
        if option in OPTIONS:
            check_allowed(option, value, OPTIONS[option])
    return NETWORKS[name](n_classes, **options)


def normalise(images: Float[Array, "*N 3"]) -> Float[Array, "*N 3"]:
    """(image - mean) / deviation of ImageNet's colours, images in [0, 1]."""
    shape = (1,) * (images.ndim - 1) + (3,)
    mean, deviation = (v.reshape(shape) for v in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    return (images - mean) / deviation


def first_layer_filters(variables: dict) -> Float[Array, "V K K 3 D"]:
    """First-layer kernels of V runs, from variables with a leading axis V."""
    (name,) = (name for name in _FIRST_LAYERS if name in variables["params"])
    return variables["params"][name]["kernel"]


def flops(network: nn.Module, size: tuple[int, int]) -> int:
    """Multiplications and additions of one image's forward pass: two a weight and place.

    Convolutions and fully connected layers alone, whatever algorithm computes them. A training
    step takes three times as many, less the first layer's.
    """
    initialise = functools.partial(network.init, mutable=True, capture_intermediates=True)
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    found = traverse_util.flatten_dict(jax.eval_shape(initialise, jax.random.key(0), image))
    total = 0
    for (collection, *path, name), kernel in found.items():
        if (collection, name) == ("params", "kernel"):
            (out,) = found["intermediates", *path, "__call__"]
            total += 2 * kernel.size * math.prod(out.shape[1:-1])
    return total
