"""Matching: known blurs are found, what cannot be reached is refused, records survive."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import structural_similarity

import foveation_jax as fj
from foveation_jax.transforms import matched, matching, settled
from foveation_jax.transforms.foveated_blur import ring_centres
from foveation_jax.transforms.matching import NoSigma
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


@pytest.mark.parametrize(
    "field", [{"sigma_deg": [float("nan")]}, {"sigma_deg": [-1.0]}, {"sigma_deg": [1.0, 2.0]},
              {"target_value": ["0.5"]}, {"interval": [[0.0]]}, {"size": [64]}, {"share": []},
              {"fixation": [1.0]}, {"sigma_px": 1.0}],
)  # fmt: skip
def test_records_that_hold_what_they_cannot_are_refused(tmp_path, field):
    fields = dataclasses.asdict(matched.shipped("uniform_blur")) | field
    (tmp_path / "bad.json").write_text(json.dumps(fields))
    with pytest.raises(fj.InputError, match=r"bad\.json: not a record"):
        matched.load(tmp_path / "bad.json")


GRAIN = jnp.linspace(0, 1, 64)[None, :, None, None] ** 2  # more is lost below


def grainy(images, amount=0.4, key=KEY):
    """A texture's stand-in: noise that grows towards the bottom."""
    noise = jax.random.uniform(key, images.shape) - 0.5
    return jnp.clip(images + amount * GRAIN * noise, 0, 1)


@pytest.mark.parametrize(("fixation", "field_of_view"), [((0.0, 0.0), 26.0), ((-9.0, 70.0), 13.0)])
def test_zones_that_match_make_a_whole_that_matches(images, fixation, field_of_view):
    target, view = grainy(images), {"fixation": fixation, "field_of_view": field_of_view}
    record = fj.match(images, target, KEY, system="foveation_blur", **view)
    assert record.largest_gap < 2e-4
    assert sum(record.share) == pytest.approx(1, abs=1e-5)
    seen = np.asarray(fj.transform("foveation_blur", images, KEY, matched=record, **view))
    options = {"channel_axis": 2, "gaussian_weights": True, "sigma": 1.5, "data_range": 1.0}
    for population in (False, True):
        gap = [
            structural_similarity(a, b, use_sample_covariance=population, **options)
            - structural_similarity(a, t, use_sample_covariance=population, **options)
            for a, b, t in zip(np.asarray(images), seen, np.asarray(target), strict=True)
        ]
        assert np.mean(gap) == pytest.approx(record.whole_gap, abs=5e-4)
    low, high = record.whole_interval
    assert low - 2e-6 <= record.whole_gap <= high + 2e-6
    assert np.asarray(gap).std() / 2 / 4 < high - low < 8 * np.asarray(gap).std() / 2


@pytest.mark.parametrize(("metric", "turned"), [("ssim", 0.8), ("mse", 0.6)])
def test_zones_where_no_blur_goes_as_far_as_the_target_are_joined(images, metric, turned):
    """Turning the colours of the outermost ring over takes it farther than a blank is."""
    rings = fj.pooling_windows(0.4, (64, 64), published=False).pixel_factors()[0]
    outer = turned * rings[-2:].sum(0)[None, ..., None]
    mild = fj.transform("uniform_blur", images, KEY, sigma=1.5)
    target = (1 - outer) * mild + outer * (1 - images)
    free = {"system": "foveation_blur", "metric": metric, "tolerance": 2e-3}
    apart = fj.match(images, mild, KEY, **free)
    assert apart.joined_from_deg is None
    record = fj.match(images, target, KEY, **free)
    assert record.eccentricity_deg == apart.eccentricity_deg[:-1]  # no more of them than it takes
    assert record.joined_from_deg == record.eccentricity_deg[-1]
    assert record.largest_gap < 2e-3
    assert sum(record.share) == pytest.approx(1, abs=1e-5)
    assert "from 10.9 degrees on one zone" in record.sentence()
    seen = fj.transform("foveation_blur", images, KEY, matched=record)
    of_both = [fj.metrics.METRICS[metric](images, other).mean() for other in (seen, target)]
    assert float(of_both[0] - of_both[1]) == pytest.approx(record.whole_gap, abs=5e-4)
    checked = fj.check_match(record, images, target, KEY)
    assert checked.gap == pytest.approx(record.gap, abs=1e-5)


def test_the_widest_blur_follows_the_size(images):
    """At 64 px a sigma of 64 is a blank; in a larger image of the same content it is not."""
    large = jax.image.resize(images[:2], (2, 192, 192, 3), "linear")
    target = fj.transform("uniform_blur", large, KEY, sigma=90.0)
    record = fj.match(large, target, KEY, tolerance=1e-4)
    assert record.sigma_deg[0] * 192 / 26 == pytest.approx(90.0, rel=0.05)


def test_a_record_says_what_it_was_matched_on_and_achieves_on_others(images):
    view = {"fixation": (0.0, 0.0), "field_of_view": 26.0}
    target = fj.transform("uniform_blur", images, KEY, sigma=2.0)
    record = fj.match(images, target, KEY, **view)
    assert (record.size, record.fixation, record.field_of_view) == ((64, 64), (0.0, 0.0), 26.0)
    assert record.origin == "sigmas matched on 4 pictures"
    same = fj.check_match(record, images, target, KEY)
    assert same.achieved == pytest.approx(record.achieved, abs=1e-5)
    other = fj.check_match(record, images[::-1], images[::-1], KEY)  # nothing is lost there
    assert other.n_images == 4
    assert other.sigma_deg == record.sigma_deg
    assert other.whole[1] == pytest.approx(1, abs=1e-5)
    assert f"gap {other.whole_gap:+.4f}" in other.sentence()
    assert "on 4 pictures" in other.sentence()
    assert "(95 % " in other.sentence()
    alone = fj.check_match(record, images[:1], target[:1], KEY).sentence()
    assert "(no interval of one), on 1 picture;" in alone
    assert "95 %" not in alone
    with pytest.raises(fj.InputError, match="64 x 64"):
        fj.check_match(record, images[:, :32], images[:, :32], KEY)


SETTINGS = {"route": "disarray", "scale": 0.4, "fixation": None, "field_of_view": 26.0}


def of(images, target, name="these", fixations=None):
    """A run's pictures; what is read of them is noted in `.reads`."""
    reads = []

    def read(places):
        reads.append(list(places))
        found = (np.asarray(x)[places] for x in (images, images, target))
        return *found, None if fixations is None else fixations[places]

    pictures = settled.Pictures(len(images), read, lambda: name)
    object.__setattr__(pictures, "reads", reads)
    return pictures


def settle(pictures, kept=None, n_match=4, system="uniform_blur", **settings):
    tolerance, drawn = settings.pop("tolerance", 0.01), settings.pop("drawn", False)
    return settled.settle_sigmas(
        system, SETTINGS | settings, (64, 64), KEY, kept, pictures, n_match, tolerance, drawn
    )


@pytest.fixture
def fitting(images, monkeypatch):
    """Sigmas ship that were matched at 64 x 64; those of a blur of 2 px."""
    target = fj.transform("uniform_blur", images, KEY, sigma=2.0)
    record = dataclasses.replace(fj.match(images, target, KEY), origin="shipped sigmas")
    monkeypatch.setattr(matched, "shipped", lambda system: record)
    return record, target


def test_shipped_sigmas_are_taken_where_they_hold_and_matched_anew_elsewhere(images, fitting):
    shipped, target = fitting
    nearly = jnp.concatenate([target[:3], images[3:] * 0.98 + target[3:] * 0.02])
    record = settle(of(images, nearly), tolerance=0.5)
    assert record.sigma_deg == shipped.sigma_deg
    assert record.origin == "shipped sigmas"
    assert record.whole_gap < shipped.whole_gap - 0.02  # what was achieved is of these pictures
    assert settle(of(images, nearly)).origin == "sigmas matched here, on 4"
    for options in ({"fixation": (0.0, 0.0)}, {"field_of_view": 13.0}, {"route": "pyramid"}):
        assert settle(of(images, target), **options).origin == "sigmas matched here, on 4"
    others = fj.transform("uniform_blur", images, KEY, sigma=1.0)
    record = settle(of(images, others))
    assert record.sigma_deg[0] * 64 / 26 == pytest.approx(1.0, rel=0.02)
    assert abs(record.whole_gap) < 1e-3
    with pytest.raises(NoSigma, match="no sigma within"):
        settle(of(images, 1 - images))


def test_a_kept_record_is_taken_for_its_own_pictures_alone(images, fitting):
    others = fj.transform("uniform_blur", images, KEY, sigma=1.0)
    kept = settle(of(images, others))
    found = of(images, others)
    assert settle(found, kept) == kept
    assert not found.reads
    order = jnp.array([2, 0, 1, 3])
    more = settle(of(images[order], others[order], "others"), kept)  # the sigmas hold: they stay
    assert more.sigma_deg == kept.sigma_deg
    assert more.made_of != kept.made_of
    wide = fj.transform("uniform_blur", images, KEY, sigma=3.0)
    assert settle(of(images, wide, "wide"), kept).sigma_deg[0] > 2 * kept.sigma_deg[0]
    for options in ({"published": True}, {"tolerance": 0.005}, {"n_match": 3}):
        found = of(images, others)
        settle(found, kept, **options)
        assert found.reads


def test_sigmas_that_hold_on_few_pictures_alone_are_matched_on_more(images, fitting, monkeypatch):
    """Four of ten pictures lose little, and say nothing of all."""
    monkeypatch.setattr(settled, "AT_ONCE", 4)
    few = np.array([0, 3, 6, 9])
    ten = jnp.concatenate([images, images, images[:2]])
    mixed = fj.transform("uniform_blur", ten, KEY, sigma=4.0).at[few].set(ten[few])
    found = of(ten, mixed)
    record = settle(found, n_match=4)
    assert few.tolist() in found.reads  # spread over all
    assert abs(record.whole_gap) <= 0.01
    assert record.n_images == 10
    assert record.origin != "sigmas matched here, on 4"


def test_looks_at_one_picture_are_drawn_together_for_the_interval():
    gaps = np.asarray([0.1, 0.3, -0.2, 0.05])[:, None]
    own = matching._achieved(0 * gaps, gaps, np.ones(1), KEY)
    looks = np.asarray([0, 1, 2, 3, 0, 1, 2, 3])
    twice = np.concatenate([gaps, gaps])
    paths = matching._achieved(0 * twice, twice, np.ones(1), KEY, looks)
    assert paths["whole_interval"] == own["whole_interval"]
    assert (paths["n_images"], paths["n_pictures"], own["n_pictures"]) == (8, 4, None)
    uneven = matching._achieved(0 * twice[:5], twice[:5], np.ones(1), KEY, looks[:5])
    assert uneven["achieved"] == (0.07,)  # each look counts once
    low, high = uneven["whole_interval"]
    assert low < 0.07 < high
    level = matching._achieved(np.zeros((5, 1)), np.full((5, 1), 0.25), np.ones(1), KEY, looks[:5])
    assert level["whole_interval"] == (0.25, 0.25)  # however many looks are drawn


def test_chunks_of_looks_keep_the_picture_that_each_is_at(monkeypatch):
    """Looks are read in another order than they stand in, and their pictures with them."""
    told, own = [], np.repeat(np.arange(10), 4)

    def read(places):
        return (own[places],) * 3 + (np.zeros((len(places), 2)),)

    def measured(record, view, chunks, key, picture_of=None):
        told.append((np.concatenate([chunk[0] for chunk in chunks()]), picture_of))
        return dataclasses.replace(record, achieved=record.target_value)

    monkeypatch.setattr(settled, "measure", measured)
    monkeypatch.setattr(matched, "misfits", lambda record, view: "")
    settle(settled.Pictures(40, read, lambda: "these", own), drawn=True)
    np.testing.assert_array_equal(*told[0])
    assert (told[0][1] != own).any()


def test_a_sentence_says_looks_where_they_are_more_than_pictures():
    record = dataclasses.replace(matched.shipped("uniform_blur"), n_images=7, n_pictures=3)
    assert "on 7 looks at 3 pictures;" in record.sentence()
    assert "(95 % " in record.sentence()
    alone = dataclasses.replace(record, n_pictures=1).sentence()
    assert "(no interval of one), on 7 looks at 1 picture;" in alone
    assert "on 7 pictures;" in dataclasses.replace(record, n_pictures=None).sentence()


def test_pictures_with_fixations_of_their_own_are_matched_together(images):
    """Each is seen by its own rings: sigmas that all were blurred with are found again."""
    fixations = np.array([[0, 0], [31.5, 31.5], [10, 60], [63, 20]], np.float32)
    rings = fj.pooling_windows(0.4, (64, 64), (0.0, 0.0), False).n_rings
    sigmas = tuple(np.linspace(0.5, 2.5, rings))
    windows = [fj.pooling_windows(0.4, (64, 64), tuple(map(float, f)), False) for f in fixations]
    target = jnp.concatenate(
        [
            fj.transform(
                "foveation_blur", image[None], KEY, sigma=sigmas[: w.n_rings], fixation=tuple(f)
            )
            for image, w, f in zip(images, windows, fixations.tolist(), strict=True)
        ]
    )
    pictures = of(images, target, fixations=fixations)
    record = settle(pictures, system="foveation_blur", drawn=True, tolerance=1e-3)
    assert record.fixation is None
    found = np.asarray(record.sigma_deg)[1:-1] * 64 / 26
    places = [int(np.abs(CENTRES - e).argmin()) for e in record.eccentricity_deg[1:-1]]
    np.testing.assert_allclose(found, np.asarray(sigmas)[places], rtol=0.1)


CENTRES = np.asarray(ring_centres(fj.pooling_windows(0.4, (64, 64), (0.0, 0.0), False)))


def test_what_sigmas_achieve_on_held_out_pictures_is_kept(images, fitting, tmp_path):
    _, target = fitting
    record, path = settle(of(images, target)), tmp_path / "test.json"
    held_out = settled.check_sigmas(record, KEY, path, of(images, images, "test"))
    assert held_out.whole_gap < -0.05
    assert held_out.sigma_deg == record.sigma_deg
    again = of(images, images, "test")
    assert settled.check_sigmas(record, KEY, path, again) == held_out
    assert not again.reads
    other = dataclasses.replace(record, sigma_deg=(record.sigma_deg[0] / 2,))
    assert settled.check_sigmas(other, KEY, path, again).whole_gap > held_out.whole_gap
    path.write_text("{")
    with pytest.raises(fj.InputError, match=r"test\.json: not a record .* Delete it"):
        settled.check_sigmas(record, KEY, path, again)


@pytest.fixture
def passes(monkeypatch):
    """Sigmas of every measurement of a foveation blur, in order."""
    made, measure = [], matching.of_blur
    monkeypatch.setattr(
        matching, "of_blur", lambda *args: made.append(np.asarray(args[-1])) or measure(*args)
    )
    return made


def test_a_step_is_one_measurement(images, passes):
    """Slopes are learnt from the steps: measured anew for each, this takes 18 or more."""
    target = grainy(images)
    record = fj.match(images, target, KEY, system="foveation_blur")
    assert record.largest_gap < 2e-4
    assert len(passes) <= 13


def test_a_start_next_to_no_blur_is_no_trap(images, passes):
    """There a little more blur changes nothing, so that no slope is seen."""
    target = grainy(images)
    record = fj.match(images, target, KEY, system="foveation_blur")
    shorter = dataclasses.replace(record, sigma_deg=(0.04,) * len(record.sigma_deg))
    passes.clear()
    again = fj.match(images, target, KEY, system="foveation_blur", start=shorter)
    np.testing.assert_allclose(again.sigma_deg, record.sigma_deg, rtol=0.05)
    assert len(passes) <= 16


@pytest.mark.parametrize(
    ("gaps", "sigmas", "kept"),
    [
        ((0, 0.02, 0.02), (3, 64, 64), 1),  # both beyond: so is what they make together
        ((0, 0.001, 0.02), (3, 9, 64), 2),
        ((0, 0.011, -0.009), (3, 64, 64), 2),  # together they are not
        ((0, 0.02, 0.001), (3, 9, 64), 3),  # the second may be blurred more
        ((0.02,), (64,), 1),
    ],
)
def test_zones_that_can_be_blurred_no_more_are_joined(gaps, sigmas, kept):
    """The last of these zones then holds all outer ones."""
    here = np.array([gaps])
    share = np.full(len(gaps), 1 / len(gaps))
    bounds = (0.25, 64.0)
    left = matching._within(np.log(sigmas), here, 0 * here, share, bounds, 0.01)
    np.testing.assert_array_equal(left, np.arange(kept))


def test_few_pictures_are_matched_first_and_all_from_there(images, fitting, monkeypatch):
    """Twelve pictures, a texture for each that is not alike: the whole is measured a few times."""
    monkeypatch.setattr(settled, "AT_ONCE", 4)
    twelve = jnp.concatenate([images, images[:, ::-1], images[:, :, ::-1]])
    found = of(twelve, fj.transform("uniform_blur", twelve, KEY, sigma=0.7))
    record = settle(found, n_match=12)
    assert record.sigma_deg[0] * 64 / 26 == pytest.approx(0.7, rel=0.02)
    assert found.reads[0] == [0, 3, 6, 9]  # spread over all
    assert sum(8 in places for places in found.reads) <= 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tolerance": 0.0}, "tolerance is 0.0; allowed is above 0"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"start": "record.json"}, "start is a str: it must be a Match"),
        ({"start": ()}, r"start: sigma_deg has nan; allowed is above 0"),
        ({"metric": "psnr"}, "psnr of the target is inf on picture 0"),
    ],
)
def test_what_cannot_be_matched_by_is_named(images, options, said):
    if options.get("start") == ():
        shipped = matched.shipped("uniform_blur")
        options = {"start": dataclasses.replace(shipped, sigma_deg=(float("nan"),))}
    with pytest.raises(fj.InputError, match=said):
        fj.match(images, images, KEY, **options)
    with pytest.raises(fj.InputError, match="match is a dict: it must be a Match"):
        fj.check_match({}, images, images, KEY)
