"""Makes vgg.npz: features, regions and mixing of the published algorithm, by plain PyTorch.

    python tests/goldens/foveation/vgg.py

Needs torch and pillow. Weights, image and noise come from numpy seeds, so the file holds results
alone; the tests make the same inputs with `random_weights` and `inputs`.
"""

import pathlib
import runpy

import numpy as np

SIZE = 64
SCALE = 0.5
ENCODER = (
    ("0", 3, 3, 1), ("2", 64, 3, 3), ("5", 64, 64, 3), ("9", 128, 64, 3), ("12", 128, 128, 3),
    ("16", 256, 128, 3), ("19", 256, 256, 3), ("22", 256, 256, 3), ("25", 256, 256, 3),
    ("29", 512, 256, 3),
)  # fmt: skip
DECODER = (
    ("1", 256, 512, 3), ("5", 256, 256, 3), ("8", 256, 256, 3), ("11", 256, 256, 3),
    ("14", 128, 256, 3), ("18", 128, 128, 3), ("21", 64, 128, 3), ("25", 64, 64, 3),
    ("28", 3, 64, 3),
)  # fmt: skip


def random_weights(layers, seed: int) -> dict[str, np.ndarray]:
    """He-normal kernels and small biases in the published names and layout."""
    random = np.random.RandomState(seed)
    tensors = {}
    for name, outputs, inputs, side in layers:
        kernel = random.randn(outputs, inputs, side, side) * np.sqrt(2 / (inputs * side * side))
        tensors[f"{name}.weight"] = kernel.astype(np.float32)
        tensors[f"{name}.bias"] = (0.1 * random.randn(outputs)).astype(np.float32)
    return tensors


def inputs() -> tuple[np.ndarray, np.ndarray]:
    """An image in [0, 1] and noise, [SIZE, SIZE, 3]."""
    random = np.random.RandomState(3)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    waves = [np.sin(2 * np.pi * (fy * y + fx * x)) for fy, fx in ((2, 5), (7, 1), (4, 9))]
    image = np.clip(0.5 + 0.3 * np.stack(waves, -1) + 0.1 * random.randn(SIZE, SIZE, 3), 0, 1)
    return image.astype(np.float32), random.randn(SIZE, SIZE, 3).astype(np.float32)


def main():
    import torch

    here = pathlib.Path(__file__)
    rival = runpy.run_path(str(here.parents[2] / "bench" / "neurofovea_torch.py"))
    encoder, decoder = rival["make_encoder"](), rival["make_decoder"]()
    for network, layers, seed in ((encoder, ENCODER, 1), (decoder, DECODER, 2)):
        tensors = random_weights(layers, seed)
        network.load_state_dict({name: torch.from_numpy(t) for name, t in tensors.items()})
    image, noise = (torch.from_numpy(v.transpose(2, 0, 1).copy()) for v in inputs())
    masks, mixing = rival["pooling_masks"](SCALE, SIZE)
    cells, mixing = rival["cell_masks"](masks), torch.from_numpy(mixing).float()
    with torch.no_grad():
        matched = rival["coral"](noise, image)
        content, texture = (encoder(v[None])[0] for v in (image, matched))
        mixed = rival["mix_regions"](content, texture, cells, mixing)
        seen = decoder(mixed[None])[0]
        rounded_up = encoder(image[None, :, :-3, :-6])[0]  # sides that pooling must round up
    np.savez_compressed(
        here.with_suffix(".npz"),
        cells=np.packbits(cells.numpy()),
        regions=len(cells),
        mixing=mixing.numpy(),
        matched=matched.numpy().transpose(1, 2, 0).astype(np.float32),
        content=content.numpy().transpose(1, 2, 0)[:, :, ::8],
        rounded_up=rounded_up.numpy().transpose(1, 2, 0)[:, :, ::8],
        mixed=mixed.numpy().transpose(1, 2, 0)[:, :, ::8],
        seen=seen.numpy().transpose(1, 2, 0),
    )


if __name__ == "__main__":
    main()
