"""A plain PyTorch loop that trains the runs one after another: the rival of paired training.

    python tests/bench/networks_torch.py --network alexnet --runs 3 --batch 32 --size 128 --steps 5

prints `images_a_second: X`, over all runs: torchvision's network (last layer replaced), SGD with
Nesterov momentum .9 and weight decay 5e-4, cross-entropy, random images made before the clock
starts; one step of each run warms up. Needs torch and torchvision.
"""

import argparse
import time

import torch
import torchvision


def make_step(network: str, batch: int, size: int, n_classes: int):
    """A fresh network and the function that trains it for one step on a batch."""
    model = getattr(torchvision.models, network)(num_classes=n_classes).train()
    optimiser = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    images = torch.randn(batch, 3, size, size)
    labels = torch.randint(n_classes, (batch,))

    def step() -> None:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="alexnet", choices=("alexnet", "resnet18", "vgg11"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--classes", type=int, default=20)
    options = parser.parse_args()
    seconds = 0.0
    for _ in range(options.runs):
        step = make_step(options.network, options.batch, options.size, options.classes)
        step()
        start = time.perf_counter()
        for _ in range(options.steps):
            step()
        seconds += time.perf_counter() - start
    images = options.runs * options.steps * options.batch
    print(f"images_a_second: {images / seconds:.2f}")


if __name__ == "__main__":
    main()
