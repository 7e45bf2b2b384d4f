"""Makes metrics.json: the metric panel of picture pairs, from independent implementations.

Needs torch, pytorch-msssim, piq, scikit-image and scikit-learn, none of which the tests need:

    python tests/goldens/foveation/metrics.py

`pictures` is shared with the tests, so that the json holds results alone.
"""

import json
import pathlib

import numpy as np


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """Two batches [3, 177, 190, 3], float32 in [0, 1]: waves, and their distorted versions."""
    random = np.random.RandomState(7)
    y, x = np.mgrid[:177, :190] / 177.0
    originals, distorted = [], []
    for image in range(3):
        frequencies = random.uniform(2, 40, (3, 6, 2))
        phases = random.uniform(0, 2 * np.pi, (3, 6))
        waves = np.stack(
            [
                sum(
                    np.sin(2 * np.pi * (fy * y + fx * x) + p)
                    for (fy, fx), p in zip(f, ps, strict=True)
                )
                for f, ps in zip(frequencies, phases, strict=True)
            ],
            axis=-1,
        )
        original = np.clip(0.5 + 0.12 * waves + 0.04 * random.randn(177, 190, 3), 0, 1)
        noise = 0.02 * (1 + 3 * image) * random.randn(177, 190, 3)
        shifted = np.roll(original, image, axis=1)
        originals.append(original)
        distorted.append(np.clip(0.05 + 0.9 * shifted + noise, 0, 1))
    return np.stack(originals).astype(np.float32), np.stack(distorted).astype(np.float32)


def main():
    import piq
    import skimage.metrics
    import torch
    from pytorch_msssim import ms_ssim
    from sklearn.metrics import mutual_info_score

    a, b = pictures()
    ta, tb = (torch.from_numpy(v.transpose(0, 3, 1, 2).copy()).double() for v in (a, b))
    ssims, maps = zip(
        *(
            skimage.metrics.structural_similarity(
                u.astype(np.float64),
                v.astype(np.float64),
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=1.0,
                channel_axis=2,
                full=True,
            )
            for u, v in zip(a, b, strict=True)
        ),
        strict=True,
    )
    bits = [
        [
            mutual_info_score(*(np.round(255 * w[..., c]).ravel().astype(int) for w in (u, v)))
            / np.log(2)
            for c in range(3)
        ]
        for u, v in zip(a, b, strict=True)
    ]
    goldens = {
        "ssim": list(ssims),
        "ssim_map_corner": [m[:3, :3].tolist() for m in maps],
        "ssim_map_mean": [float(m.mean()) for m in maps],
        "psnr": [
            skimage.metrics.peak_signal_noise_ratio(u, v, data_range=1)
            for u, v in zip(a, b, strict=True)
        ],
        "ms_ssim": ms_ssim(ta, tb, data_range=1, size_average=False).tolist(),
        "gmsd": piq.gmsd(ta, tb, reduction="none").tolist(),
        "vif": piq.vif_p(ta, tb, reduction="none").tolist(),
        "mutual_information": np.mean(bits, axis=1).tolist(),
    }
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(goldens, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
