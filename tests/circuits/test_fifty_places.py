"""A NaN or an infinity put at a place drawn at random ends with one sentence that names it."""

import dataclasses
import importlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

import circuits_jax as cj
from circuits_jax.capture.ablation import trial
from circuits_jax.circuits.circuit import load_scores
from circuits_jax.evaluation import masked_passes, stability
from circuits_jax.lm.files import gguf
from circuits_jax.runs import devices, mesh
from circuits_jax.runs.errors import InputError
from tests.circuits import tiny
from tests.circuits.lm.files import test_gguf

CONFIG = dataclasses.replace(tiny.CONFIG, tied=False)
L, H = CONFIG.heads
# The package's name of that is the function.
subnetwork_probing = importlib.import_module("circuits_jax.methods.subnetwork_probing")
TASK = tiny.task(n=2, n_held_out=2)


def place(rng, array):
    """Where in an array."""
    return tuple(int(rng.integers(n)) for n in np.shape(array))


def spoilt(rng, array, wrong):
    """The array with one number changed, and where."""
    changed, at = np.array(array), place(rng, array)
    changed[at] = wrong
    return changed, list(at)


def one_of(rng, names):
    names = sorted(names)
    return names[rng.integers(len(names))]


# Each kind takes (rng, wrong, folder, monkeypatch), and gives what to do and what names the place.


def tensor_of_a_folder(rng, wrong, folder, _):
    path = tiny.write_model(folder / "model") / "model.safetensors"
    tensors = load_file(path)
    name = one_of(rng, tensors)
    tensors[name], _ = spoilt(rng, tensors[name], wrong)
    save_file(tensors, path)
    return lambda: cj.load_model(str(path.parent)), [name, "not finite"]


def tensor_of_a_gguf(rng, wrong, folder, _):
    arch = one_of(rng, test_gguf.FAMILIES)
    tensors = test_gguf.tiny_tensors(arch)
    name = one_of(rng, tensors)
    tensors[name], _ = spoilt(rng, tensors[name], wrong)
    path = test_gguf.write(folder / "m.gguf", arch, test_gguf.MODELS[arch][0], tensors)
    return lambda: test_gguf.parameters(gguf.read_gguf(path)), [f"'{name}'", "not finite"]


def parameter(rng, wrong, *_):
    model = tiny.model(CONFIG)
    flat = traverse_util.flatten_dict(model.params, sep="/")
    name = one_of(rng, flat)
    flat[name], at = spoilt(rng, flat[name], wrong)
    if name == "embedding":  # of a word that is read
        at[0] = tiny.WORDS.index("when")
        flat[name] = jnp.asarray(model.params[name]).at[tuple(at)].set(wrong)
    model = dataclasses.replace(model, params=traverse_util.unflatten_dict(flat, sep="/"))
    use = (
        lambda: model.logits(TASK.learn.positives),
        lambda: cj.discover(model, TASK, "sae_codes", steps=3),
        lambda: cj.discover(model, TASK, "exact_patching"),
    )[rng.integers(3)]
    return use, [f"parameter {name} holds {wrong} at {at}", "on prompt 0"]


def activation(rng, wrong, *_):
    """What one word of one prompt is embedded as."""
    model, prompts = tiny.model(CONFIG), [f"when {name} and Hal went out" for name in tiny.NAMES]
    which = int(rng.integers(len(prompts) - 1))
    at = tiny.WORDS.index(tiny.NAMES[which]), int(rng.integers(CONFIG.d_model))
    embedding = model.params["embedding"].at[at].set(wrong)
    model = dataclasses.replace(model, params=model.params | {"embedding": embedding})
    names = ["the embedding is", f"on prompt {which} ({prompts[which]!r})"]
    return lambda: model.logits(prompts), names


def scores(rng, wrong, *_):
    of_heads, of_edges = np.ones((L, H)), np.zeros((L * H, L * H))
    if rng.integers(2):
        of_heads, at = spoilt(rng, of_heads, wrong)
        names = "head score of layer {} head {} is".format(*at)
    else:
        of_edges, at = spoilt(rng, of_edges, wrong)
        ends = (x for g in at for x in divmod(g, H))
        names = "edge score of layer {} head {} to layer {} head {} is".format(*ends)
    return cj.Scores(of_heads, of_edges), [names]


def scores_at_hand(*arguments):
    found, names = scores(*arguments)
    return lambda: found.circuit(size=3), names


def scores_on_disk(rng, wrong, folder, _):
    found, names = scores(rng, wrong)
    found.save(folder / "scores.npz")
    return lambda: load_scores(folder / "scores.npz"), ["scores.npz", *names]


def circuit_on_disk(rng, wrong, folder, _):
    path = folder / "circuit.json"
    cj.Scores(rng.random((L, H)), np.triu(rng.random((L * H, L * H)), 4)).circuit(size=6).save(path)
    record = json.loads(path.read_text())
    rows = record[("heads", "edges")[rng.integers(2)]]
    rows[rng.integers(len(rows))]["score"] = wrong
    path.write_text(json.dumps(record))
    return lambda: cj.load_circuit(path), ["circuit.json", "NaN" if wrong != wrong else "Infinity"]


def bootstraps_on_disk(rng, wrong, folder, _):
    arrays = {"head_scores": rng.random((5, L, H)), "frequency": rng.random((L, H))}
    arrays |= {"interval": rng.random((2, L, H)), "jaccard": np.array([0.5])[0]}
    name = one_of(rng, arrays)
    arrays[name], at = spoilt(rng, arrays[name], wrong)
    whole = {name: np.zeros(5, int) for name in ("seed", "rows", "circuits")}
    np.savez(folder / "stability.npz", **arrays, **whole)
    return lambda: stability.load(folder / "stability.npz"), [f"{name} holds {wrong} at {at}"]


def loss(rng, wrong, _, monkeypatch):
    """Of an autoencoder, or of a mask that is learnt, as the device gives it."""
    method = ("sae_codes", "subnetwork_probing")[rng.integers(2)]
    gather, fetched = mesh.gather, devices.fetched
    names = ["is not finite at step", "lower learning_rate"]

    def broken_mask(tree, *shape):
        found = gather(tree, *shape)
        if len(shape) == 1:
            changed, place = spoilt(rng, found[1], wrong)
            names.append(f"step {place[-1]}")
            found = (found[0], jnp.asarray(changed), *found[2:])
        return found

    def broken_code(tree):
        (heads, others), *rest = fetched(tree)
        losses, (step, autoencoder) = spoilt(rng, heads.losses, wrong)
        names.extend([f"step {step}", f"autoencoder {autoencoder} of"])
        return (heads.replace(losses=losses), others), *rest

    learnt = np.zeros((1, L, H)), np.ones((1, 3)), np.ones((1, 3)), np.ones((1, L, H))
    monkeypatch.setattr(subnetwork_probing, "_learnt", lambda *_: learnt)

    def use():
        if method == "sae_codes":
            monkeypatch.setattr(devices, "fetched", broken_code)
        else:
            monkeypatch.setattr(mesh, "gather", broken_mask)
        cj.discover(tiny.model(CONFIG), TASK, method, steps=3)

    return use, names


def replacement(rng, wrong, *_):
    """What a head is replaced by at the token that is read, where no head is kept."""
    model = tiny.model(CONFIG)
    prepared = trial(model, TASK.held_out, "resample")
    layer, prompt, _, head, width = place(rng, prepared.replacement)
    at = layer, prompt, int(prepared.batch.last[prompt]), head, width
    changed = prepared.replacement.at[at].set(wrong)
    prepared, keep = prepared.replace(replacement=changed), np.zeros((1, L, H), bool)
    return (
        lambda: masked_passes.masked_metrics(model, prepared, keep, "logit_diff"),
        [f"held-out prompt {prompt} is not finite", "choice 0 of 1"],
    )


KINDS = (
    tensor_of_a_folder, tensor_of_a_gguf, parameter, activation, scores_at_hand, scores_on_disk,
    circuit_on_disk, bootstraps_on_disk, loss, replacement,
)  # fmt: skip


@pytest.mark.filterwarnings("ignore::circuits_jax.TaskWarning")
@pytest.mark.parametrize("number", range(50))
def test_a_number_that_is_none_is_named(number, tmp_path, monkeypatch):
    kind, rng = KINDS[number % len(KINDS)], np.random.default_rng([7, number])
    wrong = (np.nan, np.inf, -np.inf)[rng.integers(3)]
    use, names = kind(rng, wrong, tmp_path, monkeypatch)
    with pytest.raises(InputError) as error:
        use()
    sentence = str(error.value)
    assert all(name in sentence for name in names), sentence
    assert "\n" not in sentence
