"""A NaN or an infinity put at a place drawn at random ends with one sentence that names it."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import foveation_jax as fj
from foveation_jax.data import read_image
from foveation_jax.networks import from_torch
from foveation_jax.probes import battery, evaluate
from foveation_jax.stage1 import perceive
from foveation_jax.training import checkpoints, loop
from foveation_jax.training.step import init_state, state_shapes
from foveation_jax.transforms import SYSTEMS, matched
from foveation_jax.vgg import weight_files
from tests.foveation import tiny_training as tiny
from tests.foveation.networks.test_networks import golden_state_dict
from tests.foveation.probes import test_battery
from tests.foveation.training.test_training import step
from tests.foveation.vgg.test_vgg import ENCODER

KEY = jax.random.key(0)


def spoilt(rng, array, wrong):
    """The array with one number changed, and where."""
    changed = np.array(array)
    at = tuple(int(rng.integers(n)) for n in changed.shape)
    changed[at] = wrong
    return changed, list(at)


def one_of(rng, names):
    return list(names)[rng.integers(len(names))]


# Each kind takes (rng, wrong, folder, monkeypatch), and gives what to do and what names the place.


def pixel(rng, wrong, *_):
    """Of an image that is transformed, measured or matched."""
    good = np.full((2, 16, 16, 3), 0.5, np.float32)
    bad, at = spoilt(rng, good, wrong)
    system, metric = one_of(rng, SYSTEMS), one_of(rng, fj.metrics.metrics_for((16, 16)))
    use = (
        lambda: fj.transform(system, jnp.asarray(bad), KEY),
        lambda: fj.metrics.METRICS[metric](bad, good),
        lambda: fj.metrics.METRICS[metric](good, jnp.asarray(bad)),
        lambda: fj.match(good, bad, KEY),
    )[rng.integers(4)]
    return use, [f"hold {wrong} at {at}", "not finite"]


def pixel_on_disk(rng, wrong, folder, _):
    grey, at = spoilt(rng, np.full((20, 20), 0.5, np.float32), wrong)
    Image.fromarray(grey).save(folder / "grey.tiff")
    return lambda: read_image(folder / "grey.tiff"), ["grey.tiff", f"{wrong} at [{at[0]}, {at[1]},"]


def tensor_of_a_network(rng, wrong, *_):
    tensors = golden_state_dict("resnet18")
    name = one_of(rng, [n for n, value in tensors.items() if np.asarray(value).dtype.kind == "f"])
    tensors[name], _ = spoilt(rng, tensors[name], wrong)
    return lambda: from_torch("resnet18", tensors), [f"weights: {name} holds", "not finite"]


def tensor_of_a_file(rng, wrong, folder, _):
    tensors, path = dict(ENCODER), folder / "encoder.npz"
    name = one_of(rng, tensors)
    tensors[name], _ = spoilt(rng, tensors[name], wrong)
    np.savez(path, **tensors)
    return lambda: weight_files.load_encoder([path]), ["encoder.npz", name, "not finite"]


def poisoned(rng, wrong):
    """A state of two runs with one number changed, and the array's name."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(init_state(tiny.setup()))
    chosen = rng.choice([i for i, (_, leaf) in enumerate(leaves) if leaf.dtype == np.float32])
    path, leaf = leaves[chosen]
    changed, at = spoilt(rng, leaf, wrong)
    arrays = [leaf for _, leaf in leaves]
    arrays[chosen] = jax.device_put(changed, leaf.sharding)
    return tree.unflatten(arrays), jax.tree_util.keystr(path, simple=True, separator="/"), at[0]


def state(rng, wrong, folder, monkeypatch):
    """As the training starts."""
    bad, name, run = poisoned(rng, wrong)
    monkeypatch.setattr(loop, "init_state", lambda setup: bad)
    train = functools.partial(loop.train, tiny.setup(), "reference", tiny.images())
    return lambda: train(tiny.images(12, 1), folder), [f"run {run}: {name} is not finite"]


def state_on_disk(rng, wrong, folder, monkeypatch):
    bad, name, _ = poisoned(rng, wrong)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "not_finite", lambda tree: None)
        checkpoints.save_latest(folder / "latest", 3, bad)
    shapes = functools.partial(state_shapes, tiny.setup())
    return (
        lambda: checkpoints.load_latest(folder / "latest", shapes, folder),
        [f"{name} in the checkpoint", "latest/3 is not finite"],
    )


def loss(rng, wrong, *_):
    """By a weight of one run, before any step."""
    setup, good = tiny.setup(), init_state(tiny.setup())
    kernel, at = spoilt(rng, good.params["fc"]["kernel"], wrong)
    done = int(rng.integers(6))
    params = good.params | {"fc": good.params["fc"] | {"kernel": kernel}}
    after, losses = step(setup, good.replace(params=params, step=good.step + done), tiny.batch())
    assert np.flatnonzero(~np.isfinite(losses)).tolist() == [at[0]]
    return (
        lambda: loop.stop_if_diverged(setup, "reference", after),
        [f"run {at[0]}: the loss is not finite at step {done + 1};", "in fc/kernel"],
    )


def perceived(rng, wrong, folder, monkeypatch):
    """A pixel that a system gives, of the image that has a mark."""
    labelled = tiny.images()
    levels = np.minimum(labelled.images, 254)
    image, place = int(rng.integers(len(levels))), int(rng.integers(16 * 16 * 3))
    levels[image, 0, 0] = 255

    def system(images, key):
        flat = images.reshape(len(images), -1)
        marked = (images[:, 0, 0] == 1).all(-1)[:, None]
        at = (jnp.arange(flat.shape[1]) == place)[None]
        return jnp.where(marked & at, wrong, flat).reshape(images.shape)

    name = f"spoilt {image} {place} {wrong}"
    monkeypatch.setitem(SYSTEMS, name, system)
    labelled = dataclasses.replace(labelled, images=levels, fingerprint=name)
    return (
        lambda: perceive(labelled, name, KEY, folder / "train.npy"),
        [f"{name}: image {image} of train comes out with"],
    )


def logits(rng, wrong, *_):
    bad, at = spoilt(rng, np.zeros((3, 4, 5), np.float32), wrong)
    return (
        lambda: evaluate.answers(lambda shown: jnp.asarray(bad), lambda rows: iter([rows]), 4, 4),
        [f"run {at[0]} answers with logits that are not finite"],
    )


def results_on_disk(rng, wrong, folder, monkeypatch):
    """Accuracies of a probe, or a record of matched sigmas."""
    path = folder / "results"
    if rng.integers(2):
        accuracy, at = spoilt(rng, test_battery.ACCURACY, wrong)
        with monkeypatch.context() as patch:
            patch.setattr(battery, "_check_finite", lambda *_: None)
            battery.save_battery(test_battery.battery(accuracy), folder / "probe.npz")
        return (
            lambda: battery.load_battery(folder / "probe.npz", "raw"),
            [f"probe.npz: accuracy:frequency/high_pass_grey, run {at[0]}"],
        )
    fields = dataclasses.asdict(matched.shipped("foveation_blur"))
    name = one_of(rng, ("sigma_deg", "eccentricity_deg", "target_value", "achieved", "share"))
    fields[name] = spoilt(rng, fields[name], wrong)[0].tolist()
    path.write_text(json.dumps(fields))
    return lambda: matched.load(path), ["not a record of matched sigmas", f"{name} is"]


KINDS = (
    pixel, pixel_on_disk, tensor_of_a_network, tensor_of_a_file, state, state_on_disk, loss,
    perceived, logits, results_on_disk,
)  # fmt: skip


@pytest.mark.parametrize("number", range(50))
def test_a_number_that_is_none_is_named(number, tmp_path, monkeypatch):
    kind, rng = KINDS[number % len(KINDS)], np.random.default_rng([11, number])
    wrong = (np.nan, np.inf, -np.inf)[rng.integers(3)]
    use, names = kind(rng, wrong, tmp_path, monkeypatch)
    with pytest.raises(fj.InputError) as error:
        use()
    sentence = str(error.value)
    assert all(name in sentence for name in names), sentence
    assert "\n" not in sentence
