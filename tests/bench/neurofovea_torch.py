"""The published Foveation-Texture algorithm in plain PyTorch: the rival that the bench races.

NeuroFovea (Deza, Jonnalagadda & Eckstein, arXiv 1705.10041) as its PyTorch code computes it: one
image at a time, VGG19 to relu4_1 of image and CORAL-matched noise, AdaIN in a loop over the pooling
regions with the last region written winning, mirrored decoder. The weights are random: they change
no arithmetic, hence no timing.

    python tests/bench/neurofovea_torch.py --size 512 --images 2

prints seconds an image for each step. Needs torch, numpy and pillow.
`tests/goldens/foveation/vgg.py` uses the same functions for the parity tests.
"""

import argparse
import math
import time

import numpy as np
import torch
import torch.nn as nn

FIELD_OF_VIEW = 26.0
ENCODER_BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 1))


def make_encoder() -> nn.Sequential:
    """Normalised VGG19 up to relu4_1."""
    layers, channels = [nn.Conv2d(3, 3, 1)], 3
    for block, (width, count) in enumerate(ENCODER_BLOCKS):
        if block:
            layers.append(nn.MaxPool2d(2, 2, 0, ceil_mode=True))
        for _ in range(count):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, width, 3), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


def make_decoder() -> nn.Sequential:
    """The encoder's mirror image: nine convolutions, three nearest upsamplings."""
    layers = []
    pairs = [(512, 256), *[(256, 256)] * 3, (256, 128), (128, 128), (128, 64), (64, 64), (64, 3)]
    for number, (inputs, outputs) in enumerate(pairs):
        layers += [nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3)]
        if number < len(pairs) - 1:
            layers.append(nn.ReLU())
        if inputs == 2 * outputs:
            layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
    return nn.Sequential(*layers)


def pooling_masks(scale: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows [R, size, size] of a square image, closed form, and the mixing a of each."""
    per_degree = size / FIELD_OF_VIEW
    inner = 6 * size / 512
    width, wedges = 2 * math.asinh(scale / 2), round(4 * math.pi / scale)
    first = 0
    while scale * inner * math.exp(width * (first + 1)) < 14 * size / 512:
        first += 1
    offset = np.arange(size) - (size - 1) / 2
    radius = np.hypot(offset[:, None], offset[None])
    angle = np.arctan2(offset[:, None], offset[None])

    def profile(u):
        u = np.abs(u)
        flank = np.cos(np.pi / 2 * (u - 0.25) / 0.5) ** 2
        return np.where(u <= 0.25, 1.0, np.where(u < 0.75, flank, 0.0))

    rings = math.ceil(math.log(radius.max() / inner) / width - 0.25)
    step = 2 * np.pi / wedges
    windows = []
    for wedge in range(wedges):
        turn = angle + np.pi - (wedge - 0.25) * step
        across = profile(((turn + np.pi) % (2 * np.pi) - np.pi) / step)
        for ring in range(first, rings):
            windows.append(across * profile(np.log(radius / inner) / width - (ring + 1)))
    windows = np.stack(windows)
    windows = windows[(windows > 0.1).sum((1, 2)) >= 140 * (size / 512) ** 2]
    masks = np.concatenate([1 - windows.sum(0, keepdims=True), windows]).clip(0, 1)
    degrees = np.sqrt((masks > 0.5).sum((1, 2)) / np.pi) / per_degree
    mixing = 2 / (1 + np.exp(-1.281 * degrees)) - 1
    mixing[0] = 0
    return masks, mixing


def cell_masks(masks: np.ndarray) -> torch.Tensor:
    """Which feature cells each window claims: 8-bit windows, bilinear with antialiasing, > .001."""
    from PIL import Image

    side = math.ceil(masks.shape[1] / 8)
    levels = np.round(masks * 255).astype(np.uint8)
    small = [np.asarray(Image.fromarray(m).resize((side, side), Image.BILINEAR)) for m in levels]
    return torch.from_numpy(np.stack(small) / 255.0 > 0.001)


def _statistics(flat):
    return flat.mean(1, keepdim=True), flat.std(1, keepdim=True)


def coral(noise: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Noise [3, Y, X] with the image's mean and covariance of colours."""

    def root(matrix):
        u, d, v = torch.linalg.svd(matrix)
        return u @ torch.diag(d.sqrt()) @ v

    flats = [x.flatten(1) for x in (noise, image)]
    (mean_n, std_n), (mean_i, std_i) = map(_statistics, flats)
    normal_n, normal_i = (flats[0] - mean_n) / std_n, (flats[1] - mean_i) / std_i
    covariance_n, covariance_i = (x @ x.T + torch.eye(3) for x in (normal_n, normal_i))
    transferred = root(covariance_i) @ torch.inverse(root(covariance_n)) @ normal_n
    return (transferred * std_i + mean_i).reshape(noise.shape)


def adain(content: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
    """`content` [C, cells] with the per-channel mean and deviation of `style`."""

    def moments(x):
        return x.mean(1, keepdim=True), (x.var(1, keepdim=True) + 1e-5).sqrt()

    (mean_c, std_c), (mean_s, std_s) = moments(content), moments(style)
    return (content - mean_c) / std_c * std_s + mean_s


def mix_regions(content, noise, cells, mixing):
    """AdaIN(noise -> content) in every region, blended by its a; the last region wins a cell."""
    mixed = content.clone()
    for cell, a in zip(cells, mixing, strict=True):
        if a == 0:
            mixed[:, cell] = content[:, cell]
            continue
        texture = adain(noise[:, cell], content[:, cell])
        mixed[:, cell] = (1 - a) * content[:, cell] + a * texture
    return mixed


@torch.no_grad()
def foveation_texture(image, noise, encoder, decoder, cells, mixing):
    """One image [3, Y, X] as seen; seconds of each step beside it."""
    start = time.perf_counter()
    matched = coral(noise, image)
    content, texture = (encoder(x[None])[0] for x in (image, matched))
    encoded = time.perf_counter()
    mixed = mix_regions(content, texture, cells, mixing)
    mixed_at = time.perf_counter()
    seen = decoder(mixed[None])[0, :, : image.shape[1], : image.shape[2]].clamp(0, 1)
    end = time.perf_counter()
    return seen, (encoded - start, mixed_at - encoded, end - mixed_at)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--scale", type=float, default=0.4)
    options = parser.parse_args()
    torch.manual_seed(0)
    encoder, decoder = make_encoder(), make_decoder()
    masks, mixing = pooling_masks(options.scale, options.size)
    cells, mixing = cell_masks(masks), torch.from_numpy(mixing).float()
    seconds = []
    for _ in range(options.images + 1):  # the first one warms up
        image, noise = (
            torch.rand(3, options.size, options.size),
            torch.randn(3, options.size, options.size),
        )
        seconds.append(foveation_texture(image, noise, encoder, decoder, cells, mixing)[1])
    steps = np.mean(seconds[1:], axis=0)
    print(
        f"neurofovea_torch {options.size} x {options.size}, {len(masks)} regions: "
        f"{steps.sum():.3f} s an image (encoders {steps[0]:.3f}, regions {steps[1]:.3f}, "
        f"decoder {steps[2]:.3f})"
    )


if __name__ == "__main__":
    main()
