"""The vgg route: files, tables, networks and regions against plain PyTorch, and hostile weights."""

import dataclasses
import pathlib
import pickle
import runpy
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import foveation_jax as fj
from foveation_jax.runs.errors import InputError
from foveation_jax.transforms import vgg_texture
from foveation_jax.vgg import encoder_decoder, weight_files, winograd
from foveation_jax.vgg.torch_files import read_torch
from foveation_jax.windows.pooling_windows import pooling_windows

GOLDENS = pathlib.Path(__file__).parents[2] / "goldens" / "foveation"
SCRIPT = runpy.run_path(str(GOLDENS / "vgg.py"))
GOLDEN = np.load(GOLDENS / "vgg.npz")
ENCODER = SCRIPT["random_weights"](SCRIPT["ENCODER"], 1)
DECODER = SCRIPT["random_weights"](SCRIPT["DECODER"], 2)
PAIR = jnp.stack([SCRIPT["inputs"]()[0], GOLDEN["matched"]])  # the image, and noise in its colours


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The random networks as the published pair of files, one .npz and one .safetensors."""
    folder = tmp_path_factory.mktemp("weights")
    np.savez(folder / "vgg.npz", **ENCODER)
    save_file(DECODER, folder / "decoder.safetensors")
    return folder / "vgg.npz", folder / "decoder.safetensors"


@pytest.fixture(scope="module")
def networks(files):
    return vgg_texture.load_networks(",".join(map(str, files)))


@pytest.fixture(scope="module")
def overwrite():
    size = (SCRIPT["SIZE"],) * 2
    return vgg_texture.cell_regions(pooling_windows(SCRIPT["SCALE"], size), "overwrite")


encode = jax.jit(lambda encoder, images: encoder_decoder.encode(encoder, images)[-1])


@pytest.mark.parametrize("size", [(6, 6), (9, 13)])
def test_winograd_is_the_convolution_and_so_is_its_gradient(size):
    random = np.random.RandomState(0)
    x = jnp.asarray(random.randn(2, *size, 5), jnp.float32)
    kernel = jnp.asarray(random.randn(3, 3, 5, 4), jnp.float32)
    weights = jnp.asarray(random.randn(2, size[0] - 2, size[1] - 2, 4), jnp.float32)
    results = [
        jax.jit(jax.value_and_grad(lambda x, k, f=f: jnp.sum(f(x, k) * weights), (0, 1)))(x, kernel)
        for f in (winograd.convolve, winograd._direct)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-3, rtol=1e-3), *results)
    outputs = [jax.jit(f)(x, kernel) for f in (winograd.convolve, winograd._direct)]
    np.testing.assert_allclose(*outputs, atol=1e-3)


def test_features_agree_with_torch(networks):
    features = encode(networks[0], PAIR)
    np.testing.assert_allclose(features[0, ..., ::8], GOLDEN["content"], atol=1e-3, rtol=1e-3)


def test_pooling_rounds_sizes_up_as_torch_does(networks):
    features = encode(networks[0], PAIR[:1, :-3, :-6])
    assert features.shape == (1, 8, 8, 512)
    np.testing.assert_allclose(features[0, ..., ::8], GOLDEN["rounded_up"], atol=1e-3, rtol=1e-3)


def test_overwrite_claims_the_published_cells(overwrite):
    claimed = np.unpackbits(GOLDEN["cells"])[: overwrite.pool.size].reshape(overwrite.pool.shape)
    assert int(GOLDEN["regions"]) == len(overwrite.pool)
    np.testing.assert_array_equal(overwrite.pool, claimed)
    np.testing.assert_allclose(overwrite.mixing, GOLDEN["mixing"], atol=1e-6)


def test_mixing_and_picture_agree_with_torch(networks, overwrite):
    encoder, decoder = networks
    content, noise = jnp.split(encode(encoder, PAIR), 2)
    mixed = vgg_texture.mix_regions(content, noise, overwrite)
    np.testing.assert_allclose(mixed[0, ..., ::8], GOLDEN["mixed"], atol=1e-3, rtol=1e-3)
    seen = vgg_texture.vgg_texture(PAIR[:1], PAIR[1:], overwrite, encoder, decoder)
    expected = np.clip(GOLDEN["seen"], 0, 1)
    np.testing.assert_allclose(seen[0], expected, atol=1e-3, rtol=1e-3)
    assert expected.std() > 0.05


@pytest.mark.parametrize("blend", vgg_texture.BLENDS)
def test_shares_sum_to_one_and_no_texture_gives_the_content(blend):
    regions = vgg_texture.cell_regions(pooling_windows(0.5, (128, 96)), blend)
    assert regions.share.shape[1:] == (16, 12)
    np.testing.assert_allclose(regions.share.sum(0), 1, atol=1e-5)
    content, noise = jax.random.normal(jax.random.key(0), (2, 1, 16, 12, 8))
    none = dataclasses.replace(regions, mixing=jnp.zeros_like(regions.mixing))
    np.testing.assert_allclose(vgg_texture.mix_regions(content, noise, none), content, atol=1e-6)


def test_partition_keeps_the_middle_of_the_fovea():
    regions = vgg_texture.cell_regions(pooling_windows(0.5, (128, 96)))
    content, noise = jax.random.normal(jax.random.key(0), (2, 1, 16, 12, 8))
    mixed = vgg_texture.mix_regions(content, noise, regions)
    np.testing.assert_allclose(mixed[0, 7:9, 5:7], content[0, 7:9, 5:7], atol=1e-6)
    assert float(jnp.abs(mixed - content)[0, 0].mean()) > 0.1


def test_full_texture_keeps_the_moments_of_separate_regions():
    halves = jnp.zeros((2, 8, 8)).at[0, :4].set(1).at[1, 4:].set(1)
    regions = vgg_texture.CellRegions(halves, halves, jnp.ones(2), unbiased=False)
    content, noise = jax.random.normal(jax.random.key(1), (2, 1, 8, 8, 5))
    mixed = vgg_texture.mix_regions(content * 3 + 2, noise, regions)
    for half in (slice(0, 4), slice(4, 8)):
        got, expected = mixed[0, half], content[0, half] * 3 + 2
        np.testing.assert_allclose(got.mean((0, 1)), expected.mean((0, 1)), atol=1e-4)
        np.testing.assert_allclose(got.std((0, 1)), expected.std((0, 1)), rtol=1e-3)


def test_noise_takes_the_colours_of_the_image_or_of_each_region(files):
    options = {"route": "vgg", "weights": ",".join(map(str, files)), "scale": 0.5}
    key, images = jax.random.key(0), PAIR[:1]
    seen = {
        colours: fj.transform("foveation_texture", images, key, colours=colours, **options)
        for colours in ("image", "region")
    }
    assert all(bool(jnp.isfinite(picture).all()) for picture in seen.values())
    assert float(jnp.abs(seen["image"] - seen["region"]).mean()) > 1e-3
    with pytest.raises(InputError, match="colours is 'grey'; allowed are image, region"):
        fj.transform("foveation_texture", images, key, colours="grey", **options)


def test_unknown_blend_is_refused():
    with pytest.raises(InputError, match="blend is 'soft'; allowed are partition, overwrite"):
        vgg_texture.cell_regions(pooling_windows(0.5, (64, 64)), "soft")


@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_torch_files_are_read_without_torch(layout):
    tensors = read_torch(GOLDENS / f"tiny_{layout}.pth")
    assert set(tensors) == {"state.0.weight", "state.0.bias", "state.steps", "state.view"}
    np.testing.assert_array_equal(tensors["state.0.weight"], np.arange(6.0).reshape(2, 3).T)
    np.testing.assert_array_equal(tensors["state.0.bias"], np.ones(2, np.float16))
    np.testing.assert_array_equal(tensors["state.view"], [4, 5, 6, 7])


@pytest.mark.parametrize("layout", ["zip", "legacy"])
@pytest.mark.parametrize("keep", [0, 10, 100, 400, 700])
def test_torch_files_cut_short_are_refused(layout, keep, tmp_path):
    path = tmp_path / "cut.pth"
    path.write_bytes((GOLDENS / f"tiny_{layout}.pth").read_bytes()[:keep])
    with pytest.raises(InputError, match=r"cut\.pth"):
        read_torch(path)


class _Call:
    def __reduce__(self):
        return (print, ("code ran",))


def test_torch_files_cannot_run_code(tmp_path, capsys):
    plain, zipped = tmp_path / "plain.pth", tmp_path / "zipped.pth"
    plain.write_bytes(pickle.dumps(_Call()))
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Call()))
    for path in (plain, zipped):
        with pytest.raises(InputError, match=r"builtins\.print, which is not a tensor's part"):
            read_torch(path)
    assert capsys.readouterr().out == ""


def test_missing_and_wrong_tensors_are_counted_and_the_first_is_named(files, tmp_path):
    partial = {k: v for k, v in ENCODER.items() if not k.startswith(("22.", "25.bias"))}
    np.savez(tmp_path / "partial.npz", **partial)
    message = r"partial\.npz does not hold the vgg19 encoder .* 3 of 20 .* 22\.weight \(missing\)"
    with pytest.raises(InputError, match=message):
        weight_files.load_encoder([tmp_path / "partial.npz"])
    with pytest.raises(InputError, match=r"decoder .*of 18 tensors"):
        weight_files.load_decoder([files[0]])
    spoilt = ENCODER | {"2.bias": np.full(64, np.nan, np.float32)}
    np.savez(tmp_path / "nan.npz", **spoilt)
    with pytest.raises(InputError, match=r"1 of 20 .* 2\.bias \(values that are not finite\)"):
        weight_files.load_encoder([tmp_path / "nan.npz"])
    wide = ENCODER | {"29.weight": ENCODER["29.weight"][:100]}
    np.savez(tmp_path / "wide.npz", **wide)
    with pytest.raises(InputError, match=r"29\.weight \(\(100, 256, 3, 3\) in place of \(512, "):
        weight_files.load_encoder([tmp_path / "wide.npz"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.npz", None, "there is no file"),
        ("weights.bin", b"x", r"must end in \.pth, \.pt, \.safetensors or \.npz"),
        ("broken.npz", b"PK\x03\x04nothing", "is damaged"),
        ("broken.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00notjson!", "is damaged"),
    ],
)
def test_files_that_are_no_weights(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        weight_files.load_encoder([tmp_path / name])


def test_no_weights_at_all():
    with pytest.raises(InputError, match="route=vgg needs weights=FILE"):
        vgg_texture.load_networks("")


def test_saved_networks_come_back_from_one_file(networks, tmp_path):
    encoder, decoder = networks
    path = tmp_path / "both.safetensors"
    weight_files.save_weights(path, encoder, decoder)
    again = vgg_texture.load_networks(path)
    jax.tree.map(np.testing.assert_array_equal, again, (encoder, decoder))
    assert [p.name for p in tmp_path.iterdir()] == ["both.safetensors"]


def test_torchvision_layout_normalises_by_imagenet(tmp_path):
    random = np.random.RandomState(0)
    tensors = {}
    blocks = encoder_decoder.BLOCKS["vgg11"]
    table, shapes = weight_files.torchvision_table(blocks), encoder_decoder.layer_shapes(blocks)
    for name, module in table.items():
        inputs, outputs = shapes[name]
        tensors[f"{module}.weight"] = random.randn(outputs, inputs, 3, 3).astype(np.float32)
        tensors[f"{module}.bias"] = random.randn(outputs).astype(np.float32)
    np.savez(tmp_path / "vgg11.npz", **tensors)
    encoder = weight_files.load_encoder([tmp_path / "vgg11.npz"])
    assert list(table.values()) == [f"features.{i}" for i in (0, 3, 6, 8, 11)]
    mean = jnp.broadcast_to(jnp.asarray(weight_files.IMAGENET_MEAN), (1, 16, 16, 3))
    first = jax.jit(lambda images: encoder_decoder.encode(encoder, images)[0])(mean)
    # The mean colour becomes 0, so only the bias is left.
    expected = np.broadcast_to(np.maximum(tensors["features.0.bias"], 0), first.shape)
    np.testing.assert_allclose(first, expected, atol=1e-4)


def test_decoder_mirrors_any_encoder():
    encoder = {"color": {}} | {
        name: {"kernel": jnp.zeros((3, 3, *shape)), "bias": jnp.zeros(shape[1])}
        for name, shape in encoder_decoder.layer_shapes(encoder_decoder.BLOCKS["vgg11"]).items()
    }
    decoder = jax.jit(encoder_decoder.init_decoder)(jax.random.key(0), encoder)
    image = jax.jit(encoder_decoder.decode)(decoder, jnp.ones((1, 2, 3, 512)))
    assert image.shape == (1, 16, 24, 3)
    assert 0.05 < float(image.std()) < 5
