"""Pictures of every kind, read as a person sees them, and written; hostile files."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from foveation_jax.data import fit_image, read_image, write_png
from foveation_jax.data.images import to_levels
from foveation_jax.runs.errors import InputError


def levels(seed=0, shape=(20, 30, 3)) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, shape, np.uint8)


@pytest.mark.parametrize("extension", ["png", "bmp", "tiff", "ppm", "webp"])
def test_lossless_colour_is_read_exactly(extension, tmp_path):
    options = {"lossless": True} if extension == "webp" else {}
    Image.fromarray(levels()).save(tmp_path / f"a.{extension}", **options)
    image = read_image(tmp_path / f"a.{extension}")
    assert image.dtype == np.float32
    np.testing.assert_array_equal(np.round(image * 255), levels())


def test_grey_of_8_16_bit_and_float_keeps_its_levels(tmp_path):
    ramp = np.linspace(0, 1, 20 * 30).reshape(20, 30)
    Image.fromarray(np.round(ramp * 255).astype(np.uint8)).save(tmp_path / "g8.png")
    Image.fromarray(np.round(ramp * 65535).astype(np.uint16)).save(tmp_path / "g16.png")
    Image.fromarray(np.round(ramp * 65535).astype(np.uint16)).save(tmp_path / "g16.tiff")
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "float.tiff")
    Image.fromarray(ramp > 0.5).save(tmp_path / "bits.png")
    expected = np.repeat(ramp[..., None], 3, 2)
    for name, step in (("g8.png", 255), ("g16.png", 65535), ("g16.tiff", 65535)):
        np.testing.assert_allclose(read_image(tmp_path / name), expected, atol=0.51 / step)
    np.testing.assert_allclose(read_image(tmp_path / "float.tiff"), expected, atol=1e-6)
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png"), expected > 0.5)


def test_transparent_parts_show_mid_grey(tmp_path):
    rgba = np.concatenate([levels(), np.full((20, 30, 1), 255, np.uint8)], -1)
    rgba[:10, :, 3] = 0
    rgba[10:, :15, 3] = 51  # one fifth
    Image.fromarray(rgba).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_allclose(image[:10], 128 / 255, atol=1e-6)
    expected = (0.2 * levels()[10:, :15] + 0.8 * 128) / 255
    np.testing.assert_allclose(image[10:, :15], expected, atol=1.01 / 255)
    np.testing.assert_allclose(image[10:, 15:], levels()[10:, 15:] / 255, atol=1e-6)


def test_palette_with_a_transparent_entry(tmp_path):
    picture = Image.fromarray(np.repeat([[0, 1]], 20, 0).repeat(15, 1).astype(np.uint8), "P")
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.save(tmp_path / "a.gif", transparency=1)
    image = read_image(tmp_path / "a.gif")
    np.testing.assert_allclose(image[0, 0], [1, 0, 0])
    np.testing.assert_allclose(image[0, -1], [128 / 255] * 3, atol=1e-6)


def test_cmyk_is_seen_in_its_colours(tmp_path):
    cyan = np.zeros((20, 30, 4), np.uint8)
    cyan[..., 0] = 255
    Image.fromarray(cyan, "CMYK").save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg")[10, 10], [0, 1, 1], atol=0.03)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_camera_rotation_is_undone(orientation, tmp_path):
    upright = levels()
    as_stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.swapaxes(0, 1), 6: np.rot90(upright, 1), 7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(as_stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.round(read_image(tmp_path / "a.png") * 255), upright)


def test_colour_profile_is_applied_and_a_broken_one_ignored(tmp_path):
    lab_like = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(levels()).save(tmp_path / "srgb.png", icc_profile=srgb)
    Image.fromarray(levels()).save(tmp_path / "broken.png", icc_profile=srgb[:100])
    Image.fromarray(levels()).save(tmp_path / "other.png", icc_profile=lab_like)
    plain = levels() / 255
    np.testing.assert_allclose(read_image(tmp_path / "srgb.png"), plain, atol=2.01 / 255)
    np.testing.assert_allclose(read_image(tmp_path / "broken.png"), plain, atol=1e-6)
    assert read_image(tmp_path / "other.png").shape == (20, 30, 3)


@pytest.mark.parametrize(
    ("mode", "alpha"), [("RGB", 255), ("P", 255), ("RGBA", 255), ("RGBA", 0), ("RGBA", 128)]
)
def test_a_profile_is_applied_to_every_mode(tmp_path, mode, alpha):
    """One whose red is sRGB's blue; what is clear shows the grey behind it all the same."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * profile[131], 12)}
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    profile[red : red + 4], profile[blue : blue + 4], profile[84:100] = b"bXYZ", b"rXYZ", bytes(16)
    picture = Image.new("RGB", (20, 30), (200, 60, 20))
    picture = picture.convert(mode, palette=Image.Palette.ADAPTIVE)
    if mode == "RGBA":
        picture.putalpha(alpha)
    picture.save(tmp_path / "a.png", icc_profile=bytes(profile))
    share = alpha / 255
    wanted = share * np.array([20, 60, 200]) + (1 - share) * 128
    np.testing.assert_allclose(read_image(tmp_path / "a.png")[3, 4] * 255, wanted, atol=2)


def _png(width: int, height: int, bits: int, kind: int, rows: bytes) -> bytes:
    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )  # fmt: skip


def _png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds hardly a pixel."""
    return _png(width, height, 8, 2, b"\0" * 64)


GREY16 = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30) * 109  # 0 to 65291


def _png_of_16_bits(levels) -> bytes:
    """A PNG of big-endian levels [Y, X, C]: Pillow writes none with colours of 16 bits."""
    (height, width, channels), kinds = levels.shape, {1: 0, 2: 4, 3: 2, 4: 6}
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    return _png(width, height, 16, kinds[channels], rows)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_levels_of_fewer_bits_in_16_are_refused_and_not_black(bits, channels, tmp_path):
    levels = np.repeat((GREY16 >> (16 - bits))[..., None], channels, 2)
    if channels in (2, 4):
        levels[..., -1] = 65535
    (tmp_path / "deep.png").write_bytes(_png_of_16_bits(levels))
    if bits == 16:
        seen = read_image(tmp_path / "deep.png")
        np.testing.assert_allclose(seen, np.repeat(GREY16[..., None] / 65535, 3, 2), atol=1 / 255)
        return
    with pytest.raises(InputError, match=rf"deep\.png: .* of {bits} bits: scale the levels"):
        read_image(tmp_path / "deep.png")


@pytest.mark.parametrize(
    ("name", "levels", "words"),
    [
        ("float255.tif", GREY16.astype(np.float32) / 257, "span 0 to 254.05.*divide .* by 255"),
        ("negative.tif", GREY16.astype(np.float32) / 65535 - 0.5, "span -0.5 to 0.49"),
        ("bright.tif", GREY16.astype(np.float32) / 40000, "span 0 to 1.6"),
        ("inf.tif", np.where(GREY16 == 109, np.inf, 0.5).astype(np.float32), r"inf at \[0, 1, 0\]"),
        ("long.tif", GREY16.astype(np.int32), "32-bit integers, 0 to 65291"),
        ("raw.jp2", GREY16 >> 4, "of 12 bits"),
        ("times16.png", (GREY16 >> 8) * 16, "above 4080 of 65535"),
    ],
)
def test_levels_whose_scale_is_unknown_are_refused(name, levels, words, tmp_path):
    Image.fromarray(levels).save(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name}: .*{words}"):
        read_image(tmp_path / name)


def test_levels_with_their_own_white_are_scaled_to_it(tmp_path):
    head = b"P5\n30 20\n4095\n"
    (tmp_path / "a.pgm").write_bytes(head + (GREY16 >> 4).astype(">u2").tobytes())
    grey = np.repeat(GREY16[..., None] / 65535, 3, 2)
    np.testing.assert_allclose(read_image(tmp_path / "a.pgm"), grey, atol=1 / 4095)
    Image.fromarray(0 * GREY16).save(tmp_path / "black.png")
    np.testing.assert_array_equal(read_image(tmp_path / "black.png"), 0)
    Image.fromarray(65535 - GREY16).save(tmp_path / "white.tif", tiffinfo={262: 0})
    np.testing.assert_allclose(read_image(tmp_path / "white.tif"), grey, atol=1e-6)
    clear = GREY16.copy()
    clear[3, 4] = 7
    Image.fromarray(clear).save(tmp_path / "clear.png", transparency=7)
    assert read_image(tmp_path / "clear.png")[3, 4, 0] == pytest.approx(128 / 255)


def test_pictures_that_are_not_finite_or_on_another_scale_are_not_written(tmp_path):
    for value, words in ((np.nan, "nan at"), (-np.inf, "-inf at"), (255.0, "span 0.5 to 255")):
        image = np.full((20, 20, 3), 0.5, np.float32)
        image[4, 5, 2] = value
        with pytest.raises(InputError, match=rf"a\.png.*{words}"):
            write_png(tmp_path / "new" / "a.png", image)
        with pytest.raises(InputError, match=words):
            to_levels(image)
    assert not list(tmp_path.iterdir())
    write_png(tmp_path / "levels.png", levels())
    np.testing.assert_array_equal(np.round(read_image(tmp_path / "levels.png") * 255), levels())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a picture"),
        (b"Dear reader, this is text.", "not a picture"),
        (_png_of_size(1, 1), "1 x 1 pixels, 16 x 16 is the least"),
        (_png_of_size(5000, 10), "5000 x 10 pixels, 16 x 16 is the least"),
        (_png_of_size(9000, 9000), "9000 x 9000 pixels, 67108864"),
        (_png_of_size(60_000, 60_000), "the most"),
        (_png_of_size(40, 40), "damaged or cut short"),
    ],
)
def test_files_that_are_no_usable_picture(content, message, tmp_path):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.png: .*{message}"):
        read_image(tmp_path / "bad.png")


@pytest.mark.parametrize("extension", ["png", "jpg", "gif", "tiff", "webp"])
@pytest.mark.parametrize("keep", [0.2, 0.6])
def test_truncated_files_are_refused(extension, keep, tmp_path):
    path = tmp_path / f"cut.{extension}"
    Image.fromarray(levels(0, (64, 64, 3))).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(InputError, match=rf"cut\.{extension}"):
        read_image(path)


def test_values_that_are_not_finite_and_missing_files_are_refused(tmp_path):
    Image.fromarray(np.full((20, 20), np.nan, np.float32)).save(tmp_path / "nan.tiff")
    with pytest.raises(InputError, match=r"nan\.tiff: .* not finite"):
        read_image(tmp_path / "nan.tiff")
    with pytest.raises(InputError, match=r"none\.png: there is no such file"):
        read_image(tmp_path / "none.png")


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(st.integers(16, 70), st.integers(16, 70)),
    size=st.tuples(st.integers(16, 50), st.integers(16, 50)),
)
def test_fitting_keeps_constants_range_and_centre(shape, size):
    constant = np.full((*shape, 3), 0.3, np.float32)
    np.testing.assert_allclose(fit_image(constant, size), 0.3, atol=1e-5)
    image = np.random.RandomState(0).uniform(size=(*shape, 3)).astype(np.float32)
    fitted = fit_image(image, size)
    assert fitted.shape == (*size, 3)
    assert 0 <= fitted.min() <= fitted.max() <= 1
    mirrored = fit_image(image[::-1, ::-1], size)
    np.testing.assert_allclose(fitted, mirrored[::-1, ::-1], atol=2e-3)


def test_padding_keeps_the_whole_picture_on_grey():
    image = np.random.RandomState(0).uniform(size=(20, 60, 3)).astype(np.float32)
    padded = fit_image(image, (60, 60), "pad")
    np.testing.assert_array_equal(padded[20:40], image)
    np.testing.assert_array_equal(padded[[0, 19, 40, 59]], np.float32(128 / 255))
    np.testing.assert_array_equal(
        fit_image(image.swapaxes(0, 1), (60, 60), "pad"), padded.swapaxes(0, 1)
    )
    np.testing.assert_allclose(
        fit_image(image, (32, 16), "pad")[13:18].mean((0, 1)), image.mean((0, 1)), atol=0.02
    )
    assert fit_image(image, (20, 60), "native") is image
    for fit, words in (("native", "20 x 60 pixels, not 60 x 60"), ("fill", "crop or pad")):
        with pytest.raises(InputError, match=words):
            fit_image(image, (60, 60), fit)


def test_png_comes_back_to_within_half_a_level_and_leaves_no_other_file(tmp_path):
    image = np.random.RandomState(0).uniform(-0.1, 1.1, (20, 30, 3)).astype(np.float32)
    write_png(tmp_path / "deep" / "a.png", image)
    again = read_image(tmp_path / "deep" / "a.png")
    np.testing.assert_allclose(again, np.clip(image, 0, 1), atol=0.501 / 255)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.png"]
    np.testing.assert_array_equal(to_levels(again), to_levels(image))


def test_levels_of_8_bits_are_fitted_as_the_colours_that_they_are():
    for size in ((12, 12), (20, 30)):
        fitted = fit_image(levels(), size)
        np.testing.assert_allclose(fitted, fit_image(levels() / np.float32(255), size), atol=1e-6)
    with pytest.raises(InputError, match="the picture's levels span 0 to 255"):
        fit_image(levels().astype(np.float32), (12, 12))
