"""From what a user types to a model: adapters, what is told at load, what is refused before."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from circuits_jax.lm import load
from circuits_jax.lm.load import load_model, open_model
from circuits_jax.runs.errors import InputError
from tests.circuits import tiny

LAYER = "model.layers.1."
PEFT = "base_model.model."


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.write_model(tmp_path_factory.mktemp("models") / "base")


def random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


TENSORS = {
    f"{PEFT}{LAYER}self_attn.q_proj.lora_A.weight": random(1, 2, 16),
    f"{PEFT}{LAYER}self_attn.q_proj.lora_B.weight": random(2, 16, 2),
    f"{PEFT}{LAYER}mlp.down_proj.lora_A.weight": random(3, 3, 24),
    f"{PEFT}{LAYER}mlp.down_proj.lora_B.weight": random(4, 16, 3),
    f"{PEFT}model.embed_tokens.lora_embedding_A": random(5, 2, len(tiny.WORDS)),
    f"{PEFT}model.embed_tokens.lora_embedding_B": random(6, 16, 2),
    f"{PEFT}model.norm.weight": random(7, 16),
}


def write_adapter(folder, base, tensors=TENSORS, **changes):
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(base),
        "r": 2,
        "lora_alpha": 8,
        "rank_pattern": {"down_proj": 3},
        "alpha_pattern": {"model.layers.1.mlp.down_proj": 6},
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("stabilised", [False, True])
def test_an_adapter_is_merged_into_its_model(base, tmp_path, stabilised):
    adapter = write_adapter(tmp_path / "adapter", base, use_rslora=stabilised)
    merged = shutil.copytree(base, tmp_path / "merged")
    tensors = load_file(base / "model.safetensors")
    root = np.sqrt if stabilised else lambda r: r
    a, b, c, d, e, f, whole = TENSORS.values()
    tensors[f"{LAYER}self_attn.q_proj.weight"] += 8 / root(2) * b @ a
    tensors[f"{LAYER}mlp.down_proj.weight"] += 6 / root(3) * d @ c
    tensors["model.embed_tokens.weight"] += 8 / root(2) * (f @ e).T
    tensors["model.norm.weight"] = whole
    save_file(tensors, merged / "model.safetensors")
    wanted = load_model(str(merged))
    named = load_model(str(base), adapter=str(adapter))
    alone = load_model(str(adapter))  # which says what its base is
    for found in (named, alone):
        assert found.config == wanted.config
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
            found.params,
            wanted.params,
        )


@pytest.mark.parametrize(
    ("tensors", "changes", "words"),
    [
        (TENSORS, {"peft_type": "IA3"}, "IA3 adapter"),
        (TENSORS, {"use_dora": True}, "DORA adapter"),
        (TENSORS, {"init_lora_weights": "pissa_niter_4"}, "no plain sum of weights"),
        (TENSORS, {"alora_invocation_tokens": [3, 4]}, "no plain sum of weights"),
        (TENSORS, {"layer_replication": [[0, 2], [0, 2]]}, "no plain sum of weights"),
        (TENSORS, {"r": 0}, "the rank or alpha of"),
        ({f"{PEFT}model.layers.9.x.lora_A.weight": random(0, 2, 2)}, {}, "another model"),
        (dict(list(TENSORS.items())[:1]), {}, "both are needed"),
        (
            {**TENSORS, f"{PEFT}{LAYER}self_attn.q_proj.lora_A.weight": random(1, 2, 12)},
            {},
            "shape",
        ),
    ],
)
def test_adapters_that_do_not_fit_are_refused(base, tmp_path, tensors, changes, words):
    adapter = write_adapter(tmp_path / "adapter", base, tensors, **changes)
    with pytest.raises(InputError, match=words):
        load_model(str(base), adapter=str(adapter))


def test_an_adapter_without_its_base_says_what_to_give(tmp_path):
    adapter = write_adapter(tmp_path / "adapter", "/no/such/model")
    with pytest.raises(InputError, match="/no/such/model is no folder or file"):
        load_model(str(adapter))
    adapter = write_adapter(tmp_path / "other", "", TENSORS)
    with pytest.raises(InputError, match=r"--config\.model and --config\.adapter"):
        load_model(str(adapter))


def test_prompts_can_be_made_before_weights_are_read(base, tmp_path):
    cut = shutil.copytree(base, tmp_path / "cut")
    tensors = load_file(cut / "model.safetensors")
    tensors["model.norm.weight"][3] = np.nan
    save_file(tensors, cut / "model.safetensors")
    opened = open_model(str(cut))
    assert opened.config.heads == (3, 4)
    assert opened.tokenizer("when").input_ids
    with pytest.raises(InputError, match=r"model\.norm\.weight"):
        opened.load()


def test_a_model_without_its_tokenizer_is_told_before_weights_are_read(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "bare")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="has no tokenizer"):
        open_model(str(folder))


def test_a_path_that_is_not_there_is_no_hub_id(base, monkeypatch, tmp_path):
    monkeypatch.chdir(base.parent)
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(load, "read_hub", lambda name: pytest.fail(f"asked the hub for {name}"))
    for name in (
        "base/nothing",
        "./nothing",
        "~/nothing",
        "/nothing",
        "a/b/c",
        "base/"[:-1] + "/x",
    ):
        with pytest.raises(InputError, match="is no folder or file"):
            load_model(name)


def test_a_line_says_what_was_loaded(base):
    model = load_model(str(base))
    line = load.summary("base", model.config, model.params, model.tokenizer, "float32")
    assert line.startswith("loaded base: llama, 3 layers of 4 heads (2 for keys and values), width")
    assert "tied" in line
    assert f"vocabulary {len(tiny.WORDS)}" in line


def test_a_token_beyond_the_embedding_is_refused(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "other")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["Zoe"] = len(tiny.WORDS)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="its tokenizer is another model's"):
        load_model(str(folder)).tokenize(["when Zoe"])


def test_what_does_not_fit_in_float32_is_loaded_in_bfloat16_and_said(base, monkeypatch, caplog):
    numbers = sum(leaf.size for leaf in jax.tree.leaves(load_model(str(base)).params))
    monkeypatch.setattr(load.placement, "memory", lambda: 4 * numbers)  # nothing beside the weights
    caplog.clear()
    model = load_model(str(base))
    assert {leaf.dtype for leaf in jax.tree.leaves(model.params["layers"]["attention"])} == {
        jax.numpy.dtype("bfloat16")
    }
    assert f"{numbers / 1e9:.3g} billion numbers" in caplog.text
    assert "so it is loaded in bfloat16" in caplog.text
    monkeypatch.setattr(load.placement, "memory", lambda: 5 * numbers)
    caplog.clear()
    plain = load_model(str(base))
    assert plain.params["embedding"].dtype == "float32"
    assert "bfloat16" not in caplog.text
    monkeypatch.setattr(load.placement, "memory", lambda: 2 * numbers - 1)
    for dtype in load.DTYPES:
        with pytest.raises(InputError, match="of memory; allowed is what fits in bfloat16"):
            load_model(str(base), dtype)


def test_there_is_some_memory():
    assert load.placement.memory() > 2**28
