"""A plain PyTorch loop that trains the runs one after another: the rival of paired training.

    python tests/bench/networks_torch.py --network alexnet --runs 3 --batch 32 --size 128 --steps 5

prints `images_a_second: X`, over all runs: the network as torchvision has it, SGD with Nesterov
momentum .9 and weight decay 5e-4, cross-entropy, random images made before the clock starts; some
steps of each run warm up. On a GPU where torch has one, in float32, in TF32 or, by autocast and
with channels last, in bfloat16. Needs torch alone: torchvision's wheel does not go with every torch
of its version, such as those for CPUs.
"""

import argparse
import time

import torch
from torch import nn

# Width, kernel, stride and padding of convolutions; None is a max-pool.
ALEXNET = ((64, 11, 4, 2), None, (192, 5, 1, 2), None, (384, 3, 1, 1), (256, 3, 1, 1))
ALEXNET += ((256, 3, 1, 1), None)
VGG11 = tuple(w and (w, 3, 1, 1) for w in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0))


def convolutions(layout, pool: int) -> nn.Sequential:
    """Convolutions with relus, and pools of `pool` by `pool` with stride 2."""
    layers, width = [], 3
    for row in layout:
        if row:
            layers += [nn.Conv2d(width, *row), nn.ReLU(inplace=True)]
            width = row[0]
        else:
            layers.append(nn.MaxPool2d(pool, 2))
    return nn.Sequential(*layers)


def alexnet(n_classes: int) -> nn.Module:
    hidden = [nn.Dropout(), nn.Linear(256 * 36, 4096), nn.ReLU(inplace=True)]
    hidden += [nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True)]
    features = convolutions(ALEXNET, 3), nn.AdaptiveAvgPool2d(6), nn.Flatten()
    return nn.Sequential(*features, *hidden, nn.Linear(4096, n_classes))


def vgg11(n_classes: int) -> nn.Module:
    hidden = [nn.Linear(512 * 49, 4096), nn.ReLU(inplace=True), nn.Dropout()]
    hidden += [nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout()]
    features = convolutions(VGG11, 2), nn.AdaptiveAvgPool2d(7), nn.Flatten()
    return nn.Sequential(*features, *hidden, nn.Linear(4096, n_classes))


class Residual(nn.Module):
    """Two convolutions beside the identity, or beside a convolution of 1 x 1."""

    def __init__(self, width: int, wider: int, stride: int):
        super().__init__()
        self.way = nn.Sequential(
            nn.Conv2d(width, wider, 3, stride, 1, bias=False),
            nn.BatchNorm2d(wider),
            nn.ReLU(inplace=True),
            nn.Conv2d(wider, wider, 3, 1, 1, bias=False),
            nn.BatchNorm2d(wider),
        )
        self.beside = nn.Identity()
        if stride > 1 or width != wider:
            self.beside = nn.Sequential(
                nn.Conv2d(width, wider, 1, stride, bias=False), nn.BatchNorm2d(wider)
            )

    def forward(self, x):
        return torch.relu(self.way(x) + self.beside(x))


def resnet18(n_classes: int) -> nn.Module:
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    stem.append(nn.MaxPool2d(3, 2, 1))
    blocks, width = [], 64
    for wider, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [Residual(width, wider, stride), Residual(wider, wider, 1)]
        width = wider
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, n_classes)
    return nn.Sequential(*stem, *blocks, *head)


NETWORKS = {"alexnet": alexnet, "resnet18": resnet18, "vgg11": vgg11}
PRECISIONS = ("float32", "tensorfloat32", "bfloat16")


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    """Until the device has done all that it was told."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def make_step(network: str, batch: int, size: int, n_classes: int, precision: str):
    """A fresh network and the function that trains it for one step on a batch."""
    half = precision == "bfloat16"
    form = torch.channels_last if half else torch.contiguous_format
    model = NETWORKS[network](n_classes).train().to(DEVICE, memory_format=form)
    optimiser = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    images = torch.randn(batch, 3, size, size).to(DEVICE, memory_format=form)
    labels = torch.randint(n_classes, (batch,)).to(DEVICE)

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast(DEVICE, torch.bfloat16, enabled=half):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimiser.step()

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="alexnet", choices=NETWORKS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--precision", default="float32", choices=PRECISIONS)
    options = parser.parse_args()
    fast = options.precision == "tensorfloat32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = fast
    torch.backends.cudnn.benchmark = True
    what = options.network, options.batch, options.size, options.classes, options.precision
    seconds = 0.0
    for _ in range(options.runs):
        step = make_step(*what)
        for _ in range(3 if DEVICE == "cuda" else 1):  # cuDNN tries its algorithms
            step()
        wait()
        start = time.perf_counter()
        for _ in range(options.steps):
            step()
        wait()
        seconds += time.perf_counter() - start
    images = options.runs * options.steps * options.batch
    print(f"images_a_second: {images / seconds:.2f}\ndevice: {DEVICE}")


if __name__ == "__main__":
    main()
