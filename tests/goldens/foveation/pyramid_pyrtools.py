"""Golden coefficients of the steerable pyramid from pyrtools 1.1 (an independent implementation).

Run with an environment that has pyrtools:  python pyramid_pyrtools.py
Writes pyramid_pyrtools.npz beside this file: a 48 x 32 image and its complex pyramid of 2 octaves
and 4 orientations. pyrtools samples octave k with 4^k times our amplitude.
"""

from pathlib import Path

import numpy as np
from pyrtools.pyramids import SteerablePyramidFreq

image = np.random.default_rng(0).random((48, 32))
pyramid = SteerablePyramidFreq(image, height=2, order=3, is_complex=True)
arrays = {"image": image, "high": pyramid.pyr_coeffs["residual_highpass"]}
for k in range(2):
    bands = np.stack([pyramid.pyr_coeffs[(k, b)] for b in range(4)])
    arrays[f"bands{k}"] = (bands / 4**k).astype(np.complex64)
arrays["low"] = pyramid.pyr_coeffs["residual_lowpass"] / 4**2
arrays = {k: v if np.iscomplexobj(v) else v.astype(np.float32) for k, v in arrays.items()}
np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)
