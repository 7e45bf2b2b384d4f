"""Matching: known blurs are found, what cannot be reached is refused, records survive."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import foveation_jax as fj
from foveation_jax.transforms import matched
from foveation_jax.transforms.uniform_blur import blur_batch

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def images():
    """Smooth random images: blurs of many widths change them."""
    noise = jax.random.normal(KEY, (4, 64, 64, 3))
    mixed = sum(blur_batch(noise, jnp.float32(s)) * s for s in (1.0, 3.0, 8.0))
    return jnp.clip(0.5 + mixed / 4, 0, 1)


@pytest.mark.parametrize(("metric", "sigma"), [("ssim", 2.5), ("mse", 1.3), ("ssim", 0.8)])
def test_a_uniform_blur_is_found(images, metric, sigma):
    target = fj.transform("uniform_blur", images, KEY, sigma=sigma)
    record = fj.match(images, target, KEY, metric=metric, tolerance=1e-4)
    assert record.sigma_deg[0] * 64 / 26 == pytest.approx(sigma, rel=0.02)
    low, high = record.interval[0]
    assert low - 2e-6 <= record.gap[0] <= high + 2e-6  # records are rounded
    assert high - low < 1e-2


def test_rings_are_found(images):
    large = jax.image.resize(images, (4, 192, 192, 3), "linear")
    rings = fj.pooling_windows(0.7, (192, 192), published=False).n_rings
    sigmas = tuple(np.linspace(1, 4, rings))
    target = fj.transform("foveation_blur", large, KEY, sigma=sigmas, scale=0.7)
    record = fj.match(large, target, KEY, system="foveation_blur", scale=0.7, tolerance=2e-4)
    found = np.asarray(record.sigma_deg) * 192 / 26
    np.testing.assert_allclose(found[1:-1], sigmas[1 : len(found) - 1], rtol=0.1)
    assert max(abs(g) for g in record.gap) < 2e-4


def test_what_no_sigma_reaches_is_refused(images):
    with pytest.raises(fj.InputError, match="no sigma within"):
        fj.match(images, 1 - images, KEY)


def test_a_start_that_is_the_answer_stays(images):
    target = fj.transform("uniform_blur", images, KEY, sigma=2.0)
    record = fj.match(images, target, KEY)
    assert fj.match(images, target, KEY, start=record).sigma_deg == record.sigma_deg


def test_records_survive_the_disk(tmp_path, images):
    target = fj.transform("uniform_blur", images, KEY, sigma=2.0)
    record = fj.match(images, target, KEY, description="blur")
    matched.save(record, tmp_path / "match.json")
    assert matched.load(tmp_path / "match.json") == record
    seen = fj.transform("uniform_blur", images, KEY, matched=tmp_path / "match.json")
    np.testing.assert_allclose(seen, target, atol=0.01)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sigma_deg": 1}', "\x00"])
def test_files_that_are_no_record_are_refused(tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(fj.InputError, match=r"bad\.json"):
        matched.load(tmp_path / "bad.json")


@pytest.mark.parametrize(
    "options",
    [{"system": "reference"}, {"metric": "ssi"}, {"system": "foveation_blur", "metric": "psnr"}],
)
def test_unknown_names_are_refused(images, options):
    with pytest.raises(fj.InputError):
        fj.match(images, images, KEY, **options)
    with pytest.raises(fj.InputError, match="shape"):
        fj.match(images, images[:2], KEY)
