"""Makes training_steps.npz: two steps of PyTorch's SGD on torchvision's networks, made narrow.

    python tests/goldens/foveation/training_steps.py

Needs torch and torchvision. Weights, images and labels come from numpy seeds, so the file holds
results alone: losses, and of every tensor after the steps up to SAMPLES values of the weight (or
running statistic) and of the momentum, in PyTorch's flat order at `sampled(size)`, with the
largest absolute value of each. The tests make the same inputs with `random_weights` and `batches`.
"""

import pathlib

import numpy as np

WIDTH, CLASSES, BATCH, STEPS, SAMPLES = 0.125, 5, 4, 2, 24
SIZES = {"alexnet": 63, "resnet18": 64, "vgg11": 32}
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """A state dict of these shapes: kernels that keep the scale, variances above 1, small rest."""
    random = np.random.default_rng(seed)
    tensors = {}
    for name in sorted(shapes):
        values = random.standard_normal(shapes[name])
        if len(shapes[name]) > 1:
            values *= np.sqrt(1 / np.prod(shapes[name][1:]))
        elif name.endswith("running_var") or ("bn" in name and name.endswith("weight")):
            values = 1 + 0.1 * np.abs(values)
        else:
            values *= 0.05
        tensors[name] = values.astype(np.float32)
    return tensors


def batches(network: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [STEPS, BATCH, Y, X, 3] and labels [STEPS, BATCH]."""
    random = np.random.default_rng(7)
    side = SIZES[network]
    pixels = random.integers(0, 256, (STEPS, BATCH, side, side, 3), np.uint8)
    return pixels, random.integers(0, CLASSES, (STEPS, BATCH))


def sampled(size: int) -> np.ndarray:
    """Which values of a flat tensor are kept."""
    return np.unique(np.linspace(0, size - 1, SAMPLES).astype(int))


def narrow_network(name: str):
    """torchvision's network with every channel count but the last multiplied by WIDTH."""
    import torch
    import torchvision
    from torch import nn

    def narrow(count):
        return count if count in (3, CLASSES) else round(count * WIDTH)

    options = {} if name == "resnet18" else {"dropout": 0.0}
    network = getattr(torchvision.models, name)(num_classes=CLASSES, **options)
    for path, module in list(network.named_modules()):
        new = None
        if isinstance(module, nn.Conv2d):
            new = nn.Conv2d(
                narrow(module.in_channels), narrow(module.out_channels), module.kernel_size,
                module.stride, module.padding, bias=module.bias is not None,
            )  # fmt: skip
        elif isinstance(module, nn.BatchNorm2d):
            new = nn.BatchNorm2d(narrow(module.num_features))
        elif isinstance(module, nn.Linear):
            new = nn.Linear(narrow(module.in_features), narrow(module.out_features))
        if new is not None:
            parent, _, child = path.rpartition(".")
            setattr(network.get_submodule(parent), child, new)
    return network.to(torch.float32).train()


def train(name: str) -> dict[str, np.ndarray]:
    """Entries of the file for one network."""
    import torch

    network = narrow_network(name)
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items() if v.ndim}
    weights = random_weights(shapes, 11)
    network.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=False)
    optimiser = torch.optim.SGD(
        network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY,
        nesterov=True,
    )  # fmt: skip
    losses = []
    for pixels, labels in zip(*batches(name), strict=True):
        inputs = (pixels / np.float32(255) - np.float32(MEAN)) / np.float32(DEVIATION)
        optimiser.zero_grad()
        logits = network(torch.from_numpy(inputs.transpose(0, 3, 1, 2).copy()))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    entries = {"losses": np.asarray(losses)}
    tensors = {f"after:{k}": v for k, v in network.state_dict().items() if v.ndim}
    for key, parameter in network.named_parameters():
        tensors[f"momentum:{key}"] = optimiser.state[parameter]["momentum_buffer"]
    for key, tensor in tensors.items():
        flat = tensor.detach().numpy().ravel()
        largest = np.abs(flat).max(keepdims=True)
        entries[key] = np.concatenate([flat[sampled(flat.size)], largest])
        entries[f"shape:{key.partition(':')[2]}"] = np.asarray(tensor.shape)
    return {f"{name}:{key}": value for key, value in entries.items()}


def main():
    entries = {}
    for name in SIZES:
        entries |= train(name)
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **entries)


if __name__ == "__main__":
    main()
