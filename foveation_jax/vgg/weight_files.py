"""Weights of the vgg route from a user's files: tensor names of every known layout -> our layers.

A file (.pth, .pt, .safetensors, .npz) may hold an encoder, a decoder or both. Known layouts:

* the published "normalised" VGG19 and its decoder (Sequential numbers: "0.weight", "2.weight",
...),   alone in a file each, or together under "encoder." and "decoder.";
* torchvision's vgg11, vgg16 and vgg19 ("features.0.weight", ...), encoder only; its ImageNet mean
  and deviation become the colour convolution.

`.npz` and `.safetensors` files use the same names.
"""

import pathlib
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from foveation_jax.runs.errors import InputError
from foveation_jax.runs.files import whole
from foveation_jax.vgg.encoder_decoder import BLOCKS, Network, layer_shapes
from foveation_jax.vgg.torch_files import read_torch

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a weights file by name; raises InputError if it cannot be read."""
    if not path.is_file():
        raise InputError(f"weights: there is no file {path}.")
    if path.suffix in (".pth", ".pt"):
        return read_torch(path)
    try:
        if path.suffix == ".npz":
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                return dict(archive)
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(path)
    except Exception as error:  # safetensors raises a class of its own
        raise InputError(f"weights: {path} is damaged ({error}).") from None
    raise InputError(f"weights: {path} must end in .pth, .pt, .safetensors or .npz.")


def encoder_table(blocks: tuple[int, ...]) -> dict[str, str]:
    """Our layer -> module of the published Sequential: colour; pad conv relu ...; pool."""
    table, module = {"color": "0"}, 2
    for name in layer_shapes(blocks):
        if name.endswith("_1") and name != "conv1_1":
            module += 1  # the pooling
        table[name] = str(module)
        module += 3
    return table


def decoder_table(blocks: tuple[int, ...]) -> dict[str, str]:
    """Our layer -> module of the published decoder: pad, conv, relu ...; upsampling a block."""
    table, module = {}, 1
    for name in reversed(layer_shapes(blocks)):
        table[name] = str(module)
        module += 4 if name.endswith("_1") else 3
    return table


def torchvision_table(blocks: tuple[int, ...]) -> dict[str, str]:
    """Our layer -> torchvision's module: conv, relu ...; pool a block; no colour convolution."""
    table, module = {}, 0
    for name in layer_shapes(blocks):
        if name.endswith("_1") and name != "conv1_1":
            module += 1
        table[name] = f"features.{module}"
        module += 2
    return table


def load_encoder(paths: Sequence[pathlib.Path]) -> Network:
    """The encoder in any of `paths`; raises InputError where none holds a whole one."""
    layouts = [
        (f"the {arch} encoder", prefix, encoder_table(blocks), blocks)
        for prefix in ("encoder.", "")
        for arch, blocks in BLOCKS.items()
    ] + [
        (f"torchvision's {arch}", "", torchvision_table(blocks), blocks)
        for arch, blocks in BLOCKS.items()
    ]
    network = _load(paths, layouts, mirrored=False)
    return network if "color" in network else {"color": _imagenet_colour(), **network}


def load_decoder(paths: Sequence[pathlib.Path]) -> Network:
    """The decoder in any of `paths`; raises InputError where none holds a whole one."""
    layouts = [
        (f"the {arch} decoder", prefix, decoder_table(blocks), blocks)
        for prefix in ("decoder.", "")
        for arch, blocks in BLOCKS.items()
    ]
    return _load(paths, layouts, mirrored=True)


def _imagenet_colour() -> dict:
    """(image - mean) / deviation as a 1 x 1 convolution."""
    kernel = np.diag(1 / IMAGENET_DEVIATION)[None, None]
    return {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(-IMAGENET_MEAN / IMAGENET_DEVIATION)}


def _load(paths, layouts, mirrored: bool) -> Network:
    """The first whole network among all files and layouts, else what ails the nearest."""
    nearest = None
    for path in paths:
        tensors = read_tensors(pathlib.Path(path))
        for layout in layouts:
            _, prefix, table, blocks = layout
            problems = _problems(tensors, prefix, table, blocks, mirrored)
            if not problems:
                return _convert(tensors, prefix, table)
            wrong = len(problems) / (2 * len(table))
            if nearest is None or wrong < nearest[0]:
                nearest = (wrong, path, layout, problems)
    assert nearest is not None, "there is a path and a layout"
    _, path, (what, _, table, _), problems = nearest
    raise InputError(
        f"weights: {path} does not hold {what} (nor another known network): "
        f"{len(problems)} of {2 * len(table)} tensors are missing or of another shape, "
        f"the first is {problems[0]}."
    )


def _problems(tensors, prefix, table, blocks, mirrored) -> list[str]:
    """What is wrong with each tensor that the layout needs."""
    shapes, problems = layer_shapes(blocks), []
    for name, module in table.items():
        channels = shapes.get(name, (3, 3))
        inputs, outputs = channels[::-1] if mirrored else channels
        side = 1 if name == "color" else 3
        for part, shape in (("weight", (outputs, inputs, side, side)), ("bias", (outputs,))):
            tensor = tensors.get(f"{prefix}{module}.{part}")
            if tensor is None:
                problems.append(f"{prefix}{module}.{part} (missing)")
            elif tensor.shape != shape:
                problems.append(f"{prefix}{module}.{part} ({tensor.shape} in place of {shape})")
            elif not np.isfinite(tensor).all():
                problems.append(f"{prefix}{module}.{part} (values that are not finite)")
    return problems


def _convert(tensors, prefix, table) -> Network:
    """PyTorch's [D, C, K, K] kernels -> [K, K, C, D]."""
    return {
        name: {
            "kernel": jnp.asarray(
                tensors[f"{prefix}{module}.weight"].transpose(2, 3, 1, 0), jnp.float32
            ),
            "bias": jnp.asarray(tensors[f"{prefix}{module}.bias"], jnp.float32),
        }
        for name, module in table.items()
    }


def save_weights(path: pathlib.Path, encoder: Network, decoder: Network) -> None:
    """Writes both networks to one .safetensors file in the published names; whole or not at all."""
    from safetensors.numpy import save_file

    blocks = tuple(sum(name.startswith(f"conv{b}_") for name in decoder) for b in (1, 2, 3))
    tensors = {}
    for prefix, network, table in (
        ("encoder.", encoder, encoder_table(blocks)),
        ("decoder.", decoder, decoder_table(blocks)),
    ):
        for name, module in table.items():
            kernel = np.asarray(network[name]["kernel"]).transpose(3, 2, 0, 1)
            tensors[f"{prefix}{module}.weight"] = np.ascontiguousarray(kernel)
            tensors[f"{prefix}{module}.bias"] = np.asarray(network[name]["bias"])
    with whole(path) as unfinished:
        save_file(tensors, unfinished)
