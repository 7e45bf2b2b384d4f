"""One picture file, read as a person sees it: an sRGB array [Y, X, 3] in [0, 1], and back to PNG.

Camera rotation (EXIF) is undone; palettes, CMYK and embedded colour profiles become sRGB; grey is
repeated to three channels; 16-bit and float grey keep their levels; transparent parts show mid grey
(level 128, the surround of a vision experiment); the first frame of an animation is taken.
"""

import os
import pathlib
import struct
import warnings
import zlib

import jax
import numpy as np
from jaxtyping import Float, UInt8

from foveation_jax.errors import InputError
from foveation_jax.workdir import whole

SMALLEST_SIDE = 16
MOST_PIXELS = 2**26  # 67 megapixels; more is refused before it is decoded
BACKGROUND = 128


def read_image(path: str | os.PathLike) -> Float[np.ndarray, "Y X 3"]:
    """The picture in `path` as float32 sRGB values [Y, X, 3] in [0, 1].

    Raises:
        InputError: the file is missing, is not a picture, is truncated, has a side under 16 px or
            more than 2**26 pixels, or holds values that are not finite.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = pathlib.Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # size is judged here, other oddities when decoding
            with Image.open(path) as picture:
                _check_size(path, *picture.size)
                pixels = _to_rgb(ImageOps.exif_transpose(picture))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: this file is not a picture that can be read.") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: {_too_large('more pixels than can be decoded')}") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: the picture is damaged or cut short ({error}).") from None
    if not np.isfinite(pixels).all():
        raise InputError(f"{path}: the picture holds values that are not finite numbers.")
    return np.clip(pixels, 0, 1)


def _too_large(what: str) -> str:
    return f"the picture has {what}, {MOST_PIXELS} (for example 8192 x 8192) is the most."


def _check_size(path: pathlib.Path, width: int, height: int) -> None:
    if min(width, height) < SMALLEST_SIDE:
        raise InputError(
            f"{path}: the picture has {width} x {height} pixels, "
            f"{SMALLEST_SIDE} x {SMALLEST_SIDE} is the least."
        )
    if width * height > MOST_PIXELS:
        raise InputError(f"{path}: {_too_large(f'{width} x {height} pixels')}")


def _to_rgb(picture) -> Float[np.ndarray, "Y X 3"]:
    """Levels of an upright PIL picture of any mode as float32 sRGB in [0, 1]."""
    from PIL import Image

    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        levels = np.asarray(picture, np.float32)
        levels = levels if picture.mode == "F" else levels / 65535
        return np.repeat(levels[..., None], 3, axis=2)
    picture = _to_srgb(picture)
    if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        backdrop = Image.new("RGBA", picture.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
        picture = Image.alpha_composite(backdrop, picture)
    return np.asarray(picture.convert("RGB"), np.float32) / 255


def _to_srgb(picture):
    """`picture` with its embedded colour profile, if it has a usable one, turned into sRGB."""
    import io

    from PIL import ImageCms

    profile = picture.info.get("icc_profile")
    if not profile or picture.mode not in ("RGB", "CMYK", "L"):
        return picture
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(picture, embedded, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return picture  # a broken profile: viewers show the plain levels as well


def fit_image(
    image: Float[np.ndarray, "Y X 3"], size: tuple[int, int]
) -> Float[np.ndarray, "Y2 X2 3"]:
    """`image` brought to `size` = (Y, X): the largest centred part of that shape, resampled.

    Lanczos with antialiasing; a picture that has the size already is returned as it is.
    """
    from PIL import Image

    (height, width), (rows, columns) = image.shape[:2], size
    if (height, width) == (rows, columns):
        return image
    zoom = min(height / rows, width / columns)
    # The clipping undoes rounding: a box may not stick out by a hair.
    top, left = max(0, (height - zoom * rows) / 2), max(0, (width - zoom * columns) / 2)
    box = (left, top, min(width, left + zoom * columns), min(height, top + zoom * rows))
    channels = [
        Image.fromarray(np.ascontiguousarray(image[..., c])).resize(
            (columns, rows), Image.Resampling.LANCZOS, box=box
        )
        for c in range(3)
    ]
    return np.clip(np.stack([np.asarray(c) for c in channels], axis=-1), 0, 1)


def to_levels(image: Float[np.ndarray | jax.Array, "*B Y X 3"]) -> UInt8[np.ndarray, "*B Y X 3"]:
    """Values in [0, 1] as 8-bit levels, clipped and rounded to the nearest."""
    return np.round(np.clip(np.asarray(image), 0, 1) * 255).astype(np.uint8)


def write_png(path: pathlib.Path, image: Float[np.ndarray | jax.Array, "Y X 3"]) -> None:
    """Writes values in [0, 1] as an 8-bit PNG, whole or not at all; makes folders as needed."""
    from PIL import Image

    levels = to_levels(image)
    with whole(path) as unfinished:
        Image.fromarray(levels).save(unfinished, format="PNG", compress_level=3)


def png_is_whole(path: pathlib.Path) -> bool:
    """Whether a PNG file holds every chunk with the checksum that the format has for it."""
    try:
        data = path.read_bytes()
    except OSError:
        return False
    place, kind = 8, b""
    while kind != b"IEND" and place + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        end = place + 8 + length
        if data[end : end + 4] != zlib.crc32(data[place + 4 : end]).to_bytes(4, "big"):
            return False
        place = end + 4
    return data[:8] == b"\x89PNG\r\n\x1a\n" and kind == b"IEND" and place == len(data)
