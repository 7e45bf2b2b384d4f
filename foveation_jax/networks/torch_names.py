"""torchvision's weights as variables of our networks: an explicit table of names for each.

A table's rows are our module's path -> torchvision's module. Kernels turn from [D, C, K, K] to
[K, K, C, D]; the first fully connected layer's columns turn from (channel, row, column) order to
(row, column, channel).
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from foveation_jax.networks import alexnet, vgg11
from foveation_jax.runs.errors import InputError

ALEXNET = {
    "conv1": "features.0",
    "conv2": "features.3",
    "conv3": "features.6",
    "conv4": "features.8",
    "conv5": "features.10",
    "fc6": "classifier.1",
    "fc7": "classifier.4",
    "fc8": "classifier.6",
}
VGG11 = {
    "conv1_1": "features.0",
    "conv2_1": "features.3",
    "conv3_1": "features.6",
    "conv3_2": "features.8",
    "conv4_1": "features.11",
    "conv4_2": "features.13",
    "conv5_1": "features.16",
    "conv5_2": "features.18",
    "fc6": "classifier.0",
    "fc7": "classifier.3",
    "fc8": "classifier.6",
}
RESNET18 = {"conv1": "conv1", "bn1": "bn1", "fc": "fc"} | {
    f"layer{stage}_{block}/{ours}": f"layer{stage}.{block}.{theirs}"
    for stage in (1, 2, 3, 4)
    for block in (0, 1)
    for ours, theirs in (
        ("conv1", "conv1"),
        ("bn1", "bn1"),
        ("conv2", "conv2"),
        ("bn2", "bn2"),
        ("downsample_conv", "downsample.0"),
        ("downsample_bn", "downsample.1"),
    )
    if not ours.startswith("downsample") or (stage > 1 and block == 0)
}
# network -> (table, a side of the map that fc6 sees)
TABLES = {
    "alexnet": (ALEXNET, alexnet.CELLS),
    "resnet18": (RESNET18, None),
    "vgg11": (VGG11, vgg11.CELLS),
}


def from_torch(network: str, state_dict: Mapping[str, np.ndarray]) -> dict:
    """Variables of `network` (width 1) from torchvision's state dict, as `read_torch` gives it.

    The number of classes is the state dict's; `num_batches_tracked` is left out.

    Raises:
        InputError: tensors are missing, left over, of a wrong shape or not finite.
    """
    table, cells = TABLES[network]
    tensors = {k: v for k, v in state_dict.items() if not k.endswith("num_batches_tracked")}
    variables = {}
    for path, module in table.items():
        for collection, name, value in _convert(network, tensors, path, module, cells):
            branch = variables.setdefault(collection, {})
            for part in path.split("/"):
                branch = branch.setdefault(part, {})
            branch[name] = jnp.asarray(value, jnp.float32)
    if tensors:
        raise InputError(
            f"weights: {network} has no {sorted(tensors)[0]} "
            f"({len(tensors)} tensors are not {network}'s)."
        )
    return variables


def _convert(network, tensors, path, module, cells):
    """(collection, our name, value) of a module's tensors, which are taken out of `tensors`."""

    def take(name):
        try:
            value = np.asarray(tensors.pop(f"{module}.{name}"))
        except KeyError:
            raise InputError(f"weights: {network} needs {module}.{name}, missing here.") from None
        if not np.isfinite(value).all():
            raise InputError(f"weights: {module}.{name} holds values that are not finite.")
        return value

    if "bn" in path.split("/")[-1]:
        yield "params", "scale", take("weight")
        yield "params", "bias", take("bias")
        yield "batch_stats", "mean", take("running_mean")
        yield "batch_stats", "var", take("running_var")
        return
    weight = take("weight")
    if path == "fc6":
        weight = weight.reshape(len(weight), -1, cells, cells).transpose(2, 3, 1, 0)
        yield "params", "kernel", weight.reshape(-1, weight.shape[-1])
    else:
        yield "params", "kernel", weight.T if weight.ndim == 2 else weight.transpose(2, 3, 1, 0)
    if network != "resnet18" or path == "fc":
        yield "params", "bias", take("bias")
