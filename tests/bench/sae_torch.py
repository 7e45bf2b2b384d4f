"""The rival of the speed benchmark: the published training loop in plain PyTorch.

One shared autoencoder on the outputs of all heads, written from the description in
arXiv 2405.12522, section 3.2: ReLU codes, tied bias, L1 penalty, unit-norm directions with the
parallel part of the gradient removed, Adam, full batches.

    python tests/bench/sae_torch.py --examples 10 --heads 144 --width 768 --codes 200 --steps 500

prints one JSON line with the seconds of the loop. PyTorch is no dependency of the project:
`pip install torch` in an environment of its own.
"""

import argparse
import json
import time

import torch


class SparseAutoencoder(torch.nn.Module):
    """h = relu((x - b) W_e + c); x_hat = h W_d + b."""

    def __init__(self, width: int, codes: int):
        super().__init__()
        self.encoder = torch.nn.Parameter(torch.randn(width, codes))
        self.decoder = torch.nn.Parameter(torch.randn(codes, width))
        self.encoder_bias = torch.nn.Parameter(torch.zeros(codes))
        self.bias = torch.nn.Parameter(torch.zeros(width))
        self.normalise()

    def forward(self, x):
        """Reconstruction and codes."""
        h = torch.relu((x - self.bias) @ self.encoder + self.encoder_bias)
        return h @ self.decoder + self.bias, h

    @torch.no_grad()
    def normalise(self):
        """Scale directions to unit norm."""
        self.encoder /= self.encoder.norm(dim=0, keepdim=True)
        self.decoder /= self.decoder.norm(dim=1, keepdim=True)

    @torch.no_grad()
    def remove_parallel_gradient(self):
        """Drop the part of the gradient that would change a norm."""
        for weight, dim in ((self.encoder, 0), (self.decoder, 1)):
            weight.grad -= weight * (weight.grad * weight).sum(dim, keepdim=True)


def train(x, codes: int, steps: int, l1: float = 0.02, learning_rate: float = 1e-3):
    """Train one autoencoder on the rows of x; returns it and its last loss."""
    model = SparseAutoencoder(x.shape[-1], codes)
    adam = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for _ in range(steps):
        adam.zero_grad()
        x_hat, h = model(x)
        loss = ((x_hat - x) ** 2).mean() + l1 * h.abs().sum(-1).mean()
        loss.backward()
        model.remove_parallel_gradient()
        adam.step()
        model.normalise()
    return model, loss.item()


DEFAULTS = {"examples": 10, "heads": 144, "width": 768, "codes": 200, "steps": 500}


def main():
    """Time the loop once, after a short warm-up."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in DEFAULTS.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(args.examples * args.heads, args.width)
    train(x, args.codes, 5)
    start = time.perf_counter()
    _, loss = train(x, args.codes, args.steps)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "loss": loss, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
