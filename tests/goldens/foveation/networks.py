"""Makes networks.npz: torchvision's three networks on small images, and torch's pooling.

    python tests/goldens/foveation/networks.py

Needs torch and torchvision. Weights and images come from numpy seeds by name and shape, so the file
holds shapes and results alone; the tests make the same inputs with `state_dict`, `images` and
`pooling_input`.
"""

import pathlib
import zlib

import numpy as np

N_CLASSES = 7
SIZES = {
    "alexnet": ((63, 63), (95, 290)),
    "resnet18": ((32, 32), (47, 70)),
    "vgg11": ((32, 32), (45, 70)),
}
TRAINING = ("resnet18", (64, 64))  # with batch statistics
RELUS = {
    "alexnet": {
        "conv1": "features.1", "conv2": "features.4", "conv3": "features.7",
        "conv4": "features.9", "conv5": "features.11", "pooled": "avgpool",
        "fc6": "classifier.2", "fc7": "classifier.5",
    },
    "resnet18": {"conv1": "relu", "pooled": "avgpool"}
    | {f"layer{s}_{b}": f"layer{s}.{b}" for s in (1, 2, 3, 4) for b in (0, 1)},
    "vgg11": {
        "conv1_1": "features.1", "conv2_1": "features.4", "conv3_1": "features.7",
        "conv3_2": "features.9", "conv4_1": "features.12", "conv4_2": "features.14",
        "conv5_1": "features.17", "conv5_2": "features.19", "pooled": "avgpool",
        "fc6": "classifier.1", "fc7": "classifier.4",
    },
}  # fmt: skip


def state_dict(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """He-normal kernels, small biases, lively statistics: each a pattern repeated to its shape."""
    tensors = {}
    for name, shape in shapes.items():
        random = np.random.RandomState(zlib.crc32(name.encode()))
        pattern = random.randn(65521).astype(np.float32)  # a prime, so that no two rows are alike
        if len(shape) > 1:
            pattern *= np.float32(np.sqrt(2 / np.prod(shape[1:])))
        elif name.endswith(("running_var", "weight")):
            pattern = 0.5 + np.abs(pattern)
        else:
            pattern *= np.float32(0.1)
        tensors[name] = np.resize(pattern, shape)
    return tensors


def images(size: tuple[int, int]) -> np.ndarray:
    """Four normalised images [4, Y, X, 3]."""
    return np.random.RandomState(size[1]).randn(4, *size, 3).astype(np.float32)


def pooling_input() -> tuple[np.ndarray, np.ndarray]:
    """Small integers, hence many ties, [2, 13, 16, 5], and numbers for gradients."""
    random = np.random.RandomState(5)
    values = random.randint(0, 4, (2, 13, 16, 5)).astype(np.float32)
    return values, random.randn(*values.shape).astype(np.float32)


def sample(activation: np.ndarray) -> np.ndarray:
    """About 50 values spread over an activation, and its sum."""
    flat = np.asarray(activation).ravel()
    return np.append(flat[:: max(1, flat.size // 50)], flat.sum(dtype=np.float64) / flat.size)


def main():
    import torch
    import torchvision

    def channels_first(array):
        return torch.from_numpy(array.transpose(0, 3, 1, 2).copy())

    def channels_last(tensor):
        array = tensor.detach().numpy()
        return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array

    def make(network):
        model = getattr(torchvision.models, network)(num_classes=N_CLASSES)
        shapes = {
            name: tuple(value.shape)
            for name, value in model.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        tensors = {name: torch.from_numpy(v) for name, v in state_dict(shapes).items()}
        model.load_state_dict(tensors, strict=False)
        return model, shapes

    def run(network, model, size):
        seen, hooks = {}, []
        for ours, theirs in RELUS[network].items():

            def keep(module, inputs, output, ours=ours):
                if ours not in seen:
                    seen[ours] = channels_last(output).copy()

            hooks.append(model.get_submodule(theirs).register_forward_hook(keep))
        with torch.no_grad():
            logits = model(channels_first(images(size)))
        for hook in hooks:
            hook.remove()
        return logits.numpy(), {name: sample(value) for name, value in seen.items()}

    def maximum(side, stride, padding):
        values, weights = (
            torch.from_numpy(v.transpose(0, 3, 1, 2).copy()) for v in pooling_input()
        )
        values.requires_grad_()
        pooled = torch.nn.functional.max_pool2d(values, side, stride, padding)
        (pooled * weights[:, :, : pooled.shape[2], : pooled.shape[3]]).sum().backward()
        return channels_last(pooled), channels_last(values.grad)

    arrays = {}
    for network, sizes in SIZES.items():
        model, shapes = make(network)
        for name, shape in shapes.items():
            arrays[f"{network}/shape/{name}"] = np.array(shape)
        model.eval()
        for size in sizes:
            logits, seen = run(network, model, size)
            label = f"{network}/{size[0]}x{size[1]}"
            arrays[f"{label}/logits"] = logits
            arrays |= {f"{label}/out/{name}": value for name, value in seen.items()}
    network, size = TRAINING
    model, _ = make(network)
    model.train()
    logits, seen = run(network, model, size)
    arrays["training/logits"] = logits
    arrays |= {f"training/out/{name}": value for name, value in seen.items()}
    for name, value in model.state_dict().items():
        if "running" in name:
            arrays[f"training/stats/{name}"] = value.numpy()[:8]
    for side, stride, padding in ((3, 2, 0), (3, 2, 1), (2, 2, 0)):
        label = f"maximum/{side}{stride}{padding}"
        arrays[f"{label}/y"], arrays[f"{label}/dx"] = maximum(side, stride, padding)
    values = channels_first(pooling_input()[1])
    for side in (6, 7, 20):
        pooled = torch.nn.functional.adaptive_avg_pool2d(values, side)
        arrays[f"average/{side}"] = channels_last(pooled)
    path = pathlib.Path(__file__).with_suffix(".npz")
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main()
