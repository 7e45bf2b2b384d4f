"""Names of other libraries, there and back."""

import dataclasses

import pytest

from circuits_jax.circuits.graph import graph_of
from circuits_jax.circuits.names import nnsight, node_name, transformer_lens
from circuits_jax.lm.families.families import FAMILIES
from circuits_jax.runs.errors import InputError
from tests.circuits import tiny

GRAPH = graph_of(tiny.CONFIG)


@pytest.mark.parametrize("family", FAMILIES)
def test_paths_of_nnsight_there_and_back(family):
    config = dataclasses.replace(tiny.CONFIG, family=family)
    paths = [nnsight(name, config) for name in GRAPH.writers]
    assert len(set(paths)) == len(paths)
    assert [node_name(path, config) for path in paths] == list(GRAPH.writers)


def test_hooks_of_transformer_lens_there_and_back():
    for name in {*GRAPH.writers, *GRAPH.readers}:
        hook = transformer_lens(name, tiny.CONFIG.n_layers)
        back = node_name(hook, tiny.CONFIG)
        assert back == name, hook


def test_places_are_those_of_the_libraries():
    """As in EAP-IG's graph.py, TransformerLens' cache, and Hugging Face's modules."""
    assert transformer_lens("a3.h5", 12) == ("blocks.3.attn.hook_z", 5)
    assert transformer_lens("a3.h5<q>", 12) == ("blocks.3.hook_q_input", 5)
    assert transformer_lens("m3", 12) == ("blocks.3.hook_mlp_out", None)
    assert transformer_lens("input", 12) == ("hook_embed", None)
    assert transformer_lens("logits", 12) == ("blocks.11.hook_resid_post", None)
    gpt2 = dataclasses.replace(tiny.CONFIG, family="gpt2", head_width=64)
    assert nnsight("a3.h5", gpt2) == "transformer.h[3].attn.c_proj.input[..., 320:384]"
    mixtral = dataclasses.replace(tiny.CONFIG, family="mixtral")
    assert nnsight("m1", mixtral) == "model.layers[1].block_sparse_moe.output"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("2.3", "a2.h3"),
        ("L2H3", "a2.h3"),
        (" a2.h3 ", "a2.h3"),
        ([2, 3], "a2.h3"),
        ("a2.h3<v>", "a2.h3<v>"),
        ("blocks.2.attn.hook_result[3]", "a2.h3"),
        ("blocks.2.attn.hook_k[3]", "a2.h3<k>"),
        ("blocks.2.hook_mlp_in", "m2"),
        ("model.layers.2.self_attn.o_proj.input[:, :, 12:16]", "a2.h3"),
    ],
)
def test_forms_that_are_read(text, name):
    assert node_name(text, tiny.CONFIG) == name


@pytest.mark.parametrize(
    "text",
    ["3.0", "L0H4", "m3", [0, 4], "20", "a1", "", "2.3.1", [1], [1, -1], [True, 1], "h.1", 7, None,
     "model.layers[1].self_attn.o_proj.input[..., 1:5]", "blocks.2.hook_q_input", "-1.2"],
)  # fmt: skip
def test_what_names_no_node_of_the_model_is_refused(text):
    with pytest.raises(InputError, match=r"names no node|is not in the model|is no head"):
        node_name(text, tiny.CONFIG)


def test_what_reads_has_no_path_and_a_made_model_none():
    for name in ("logits", "a0.h1<q>"):
        with pytest.raises(InputError, match="has no path"):
            nnsight(name, tiny.CONFIG)
    made = dataclasses.replace(tiny.CONFIG, family="tracr")
    with pytest.raises(InputError, match="none of Hugging Face's"):
        nnsight("a0.h1", made)
    assert node_name("0.1", made) == "a0.h1"
