"""One picture file, read as a person sees it: an sRGB array [Y, X, 3] in [0, 1], and back to PNG.

Camera rotation (EXIF) is undone; palettes, CMYK and embedded colour profiles become sRGB; grey is
repeated to three channels; transparent parts show mid grey (level 128, the surround of a vision
experiment); the first frame of an animation is taken.

16-bit levels are shares of 65535, as PNG and TIFF define them, and float levels lie within 0 and 1.
Nothing in a file tells 12-bit data in 16 bits (a camera's raw levels) from a picture in the dark,
so 16-bit files without a level of 16384 or more, and floats on another scale, are refused.
"""

import os
import pathlib
import struct
import warnings
import zlib
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Shaped

from foveation_jax.metrics.levels import check_colours, to_levels
from foveation_jax.runs.errors import InputError
from foveation_jax.runs.files import whole

SMALLEST_SIDE = 16
DARKEST = 2**14  # the least that the brightest of 16-bit levels may be, unless all are 0
MOST_PIXELS = 2**26  # 67 megapixels; more is refused before it is decoded
BACKGROUND = 128
CLEAR = ("LA", "PA", "RGBA", "La", "RGBa")  # modes with an alpha channel
FITS = ("crop", "pad", "native")  # how a picture comes to a size
BITS, PHOTOMETRIC, PLANES = 258, 262, 284  # TIFF tags


def read_image(path: str | os.PathLike) -> Float[np.ndarray, "Y X 3"]:
    """The picture in `path` as float32 sRGB values [Y, X, 3] in [0, 1].

    Raises:
        InputError: the file is missing, is not a picture, is truncated, has a side under 16 px or
            more than 2**26 pixels, or holds levels that are not finite or whose scale is unknown.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = pathlib.Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # size is judged here, other oddities when decoding
            with Image.open(path) as picture:
                _check_size(path, *picture.size)
                layout = _layout(path, picture)
                pixels = _to_rgb(path, ImageOps.exif_transpose(picture), layout)
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
    check_colours(f"{path}: the picture's levels", pixels)
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


class _Layout(NamedTuple):
    """What a file says of its samples; decoding forgets it, and reduces 16-bit colours to 8.

    Attributes:
        kind: of file, Pillow's name ("PNG").
        samples: Pillow's name ("RGB;16B").
        white_is_0: whether 0 is white.
    """

    kind: str
    samples: str
    white_is_0: bool


def _layout(path, picture) -> _Layout:
    """Of a picture that is opened and not decoded yet."""
    tags = getattr(picture, "tag_v2", {})
    if tags.get(PLANES) == 2 and max(tags.get(BITS, (8,))) > 8:
        raise InputError(  # Pillow would decode them to noise
            f"{path}: the picture holds its colours in planes of over 8 bits, which cannot be "
            "read: save it with its colours pixel by pixel."
        )
    arguments = picture.tile[0][3] if picture.tile else ""
    samples = arguments if isinstance(arguments, str) else str((*(arguments or ()), "")[0])
    return _Layout(picture.format or "", samples, tags.get(PHOTOMETRIC) == 0)


def _to_rgb(path, picture, layout: _Layout) -> Float[np.ndarray, "Y X 3"]:
    """Levels of an upright PIL picture of any mode as float32 sRGB in [0, 1]."""
    from PIL import Image

    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        levels = _grey(path, picture, layout)
        levels = 1 - levels if layout.white_is_0 else levels
        if isinstance(clear := picture.info.get("transparency"), int):
            levels = np.where(np.asarray(picture) == clear, BACKGROUND / 255, levels)
        return np.repeat(levels[..., None], 3, axis=2).astype(np.float32)
    # Of 16 bits a channel the higher bytes are left; "BGR;16" has 16 a pixel.
    if ";16" in layout.samples and not layout.samples.startswith("BGR"):
        check_16_bits(path, 256 * int(np.asarray(picture.convert("RGB")).max()) + 255)
    picture = _to_srgb(picture)
    if picture.mode in CLEAR or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        backdrop = Image.new("RGBA", picture.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
        picture = Image.alpha_composite(backdrop, picture)
    return np.asarray(picture.convert("RGB"), np.float32) / 255


def _grey(path, picture, layout: _Layout) -> Float[np.ndarray, "Y X"]:
    """Grey levels deeper than 8 bits, as shares of the deepest."""
    levels = np.asarray(picture, np.float32)
    if picture.mode == "F":
        return levels
    if layout.samples == "I;12":
        return levels / 4095
    if layout.kind == "TIFF" and picture.mode == "I":
        raise InputError(
            f"{path}: the picture holds signed or 32-bit integers, {levels.min():g} to "
            f"{levels.max():g}, and nothing says which is white: save it with 8 or 16 bits."
        )
    if levels.any() and layout.kind != "PPM":  # which states its white
        check_16_bits(path, int(levels.max()))
    return levels / 65535


def check_16_bits(path, highest: int) -> None:
    """Refuse a picture of 16 bits that says nothing above the levels of 14."""
    if highest < DARKEST:
        bits = max(highest.bit_length(), 8)
        raise InputError(
            f"{path}: none of the picture's 16-bit levels is above {highest} of 65535, as in data "
            f"of {bits} bits: scale the levels to 65535, or save 8 bits."
        )


def _to_srgb(picture):
    """`picture` with its embedded colour profile, if it has a usable one, turned into sRGB."""
    import io

    from PIL import ImageCms

    profile = picture.info.get("icc_profile")
    if not profile:
        return picture
    plain = picture
    clear = picture.mode in CLEAR or "transparency" in picture.info
    if clear or picture.mode == "P":
        grey = picture.mode in ("LA", "La")
        whole = picture.convert("RGBA")
        alpha = whole.getchannel("A")
        picture = whole.convert("L" if grey else "RGB")
    if picture.mode not in ("RGB", "CMYK", "L"):
        return plain
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        picture = ImageCms.profileToProfile(picture, embedded, srgb, outputMode="RGB")
        if clear:
            picture.putalpha(alpha)
        return picture
    except (ImageCms.PyCMSError, OSError):
        return plain  # a broken profile: viewers show the plain levels as well


def fit_image(
    image: Shaped[np.ndarray, "Y X 3"], size: tuple[int, int], fit: str = "crop"
) -> Float[np.ndarray, "Y2 X2 3"]:
    """`image` brought to `size` = (Y, X), resampled by Lanczos with antialiasing.

    Args:
        image: colours in [0, 1], or 8-bit levels, which become that.
        size: rows and columns; a picture that has them already is returned as it is.
        fit: "crop" takes the largest centred part of that shape, "pad" the whole picture, centred
            on mid grey, "native" refuses a picture of another size.

    Raises:
        InputError: another `fit`, colours of another scale, or "native" and a picture of another
            size.
    """
    if image.dtype == np.uint8:
        image = image / np.float32(255)
    check_colours("the picture's levels", image)
    if fit not in FITS:
        raise InputError(f"fit is {fit!r}: it must be {' or '.join(FITS)}.")
    (height, width), (rows, columns) = image.shape[:2], size
    if (height, width) == (rows, columns):
        return image
    if fit == "native":
        raise InputError(
            f"the picture has {height} x {width} pixels, not {rows} x {columns}: fit=native takes "
            "pictures of one size, crop and pad bring them to one."
        )
    if fit == "crop":
        return _crop(image, size)
    zoom = max(height / rows, width / columns)
    part = [max(1, round(n / zoom)) for n in (height, width)]
    top, left = ((n - p) // 2 for n, p in zip(size, part, strict=True))
    whole = np.full((*size, 3), BACKGROUND / 255, np.float32)
    whole[top : top + part[0], left : left + part[1]] = _resize(
        image, part, (0.0, 0.0, float(width), float(height))
    )
    return whole


def cut_share(shape: tuple[int, ...], size: tuple[int, int]) -> float:
    """Share of a picture's area that the largest centred part of the shape of `size` leaves out."""
    aspect = (shape[0] / shape[1]) / (size[0] / size[1])
    return 1 - min(aspect, 1 / aspect)


def _crop(image: Float[np.ndarray, "Y X 3"], size: tuple[int, int]):
    (height, width), (rows, columns) = image.shape[:2], size
    zoom = min(height / rows, width / columns)
    # The clipping undoes rounding: a box may not stick out by a hair.
    top, left = max(0.0, (height - zoom * rows) / 2), max(0.0, (width - zoom * columns) / 2)
    right, bottom = min(width, left + zoom * columns), min(height, top + zoom * rows)
    return _resize(image, size, (left, top, float(right), float(bottom)))


def _resize(image: Float[np.ndarray, "Y X 3"], size, box: tuple[float, float, float, float]):
    """The part (left, top, right, bottom) of `image` at `size`."""
    from PIL import Image

    rows, columns = size
    channels = [
        Image.fromarray(np.ascontiguousarray(image[..., c])).resize(
            (columns, rows), Image.Resampling.LANCZOS, box=box
        )
        for c in range(3)
    ]
    return np.clip(np.stack([np.asarray(c) for c in channels], axis=-1), 0, 1)


def write_png(path: pathlib.Path, image: Shaped[np.ndarray | jax.Array, "Y X 3"]) -> None:
    """Writes colours in [0, 1], or 8-bit levels, as PNG, whole or not at all; makes its folder.

    Raises:
        InputError: a value that is not finite, or on another scale.
    """
    from PIL import Image

    levels = to_levels(image, f"{path}: the picture's values")
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
