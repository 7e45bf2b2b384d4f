"""Compiled models against tracr's own, and their circuits against the programs."""

import functools
import itertools

import jax
import numpy as np
import pytest

import circuits_jax as cj
from circuits_jax import interpose
from circuits_jax.circuits.graph import graph_of
from circuits_jax.decoder.decoder import Decoder
from circuits_jax.evaluation.graph_faithfulness import graph_trial
from circuits_jax.lm.made import compiled
from circuits_jax.lm.made.assembled import BOS, run
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks.programs import PROGRAMS, expression, word


@pytest.fixture(scope="module")
def reverse():
    return cj.load_model("tracr:reverse")


def _inputs(program, n, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, program.max_length + 1, n)
    return [
        [program.vocabulary[i] for i in rng.integers(len(program.vocabulary), size=t)]
        for t in lengths
    ]


@pytest.mark.filterwarnings("ignore")  # of haiku
def test_residual_stream_and_output_are_those_of_tracr(reverse):
    from tracr.compiler.compiling import compile_rasp_to_model

    program = PROGRAMS["reverse"]
    theirs = compile_rasp_to_model(expression(program), set(program.vocabulary), program.max_length)
    theirs.forward = jax.jit(theirs.forward)
    own, assembled = reverse, compiled.assemble("reverse")
    columns = [theirs.residual_labels.index(label) for label in assembled.labels]
    inputs = [tokens for tokens in _inputs(program, 20) if len(tokens) == 4]
    batch = own.tokenize([" ".join(map(word, tokens)) for tokens in inputs])
    last, streams = interpose.residual_streams(own.config, own.params, batch)
    end = Decoder(own.config).apply({"params": own.params}, batch, method="residual")
    streams = [*streams[1:], end]
    logits = Decoder(own.config).apply({"params": own.params}, batch)
    for row, tokens in enumerate(inputs):
        out = theirs.apply([compiled.BOS, *tokens])
        places = slice(0, len(tokens) + 1)
        for stream, residual in zip(streams, out.residuals[1::2], strict=True):
            np.testing.assert_allclose(
                stream[row, places, : len(columns)], residual[0][:, columns], atol=1e-4
            )
        best = np.argmax(logits[row, places], axis=-1)[1:]
        assert [own.tokenizer.words[i] for i in best] == [word(v) for v in out.decoded[1:]]
        assert int(np.argmax(last[row])) == best[-1]


def test_largest_logit_is_the_nearest_number_to_the_output():
    name = "pair_balance"
    model, inputs = cj.load_model(f"tracr:{name}:0"), _inputs(PROGRAMS[name], 20, seed=1)
    logits = model.logits([" ".join(map(word, tokens)) for tokens in inputs])
    expected = [word(expression(PROGRAMS[name])(tokens)[-1]) for tokens in inputs]
    assert [model.tokenizer.words[i] for i in np.argmax(logits, axis=-1)] == expected


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_head_is_read_by_another_or_by_the_output(name):
    assembled = compiled.assemble(name)
    writers = {a for a, _ in compiled.edges(assembled)}
    for layer, heads in enumerate(assembled.heads):
        for i, head in enumerate(heads):
            end = compiled._written(assembled, layer, head)[len(assembled.heads)]
            assert (layer, i) in writers or end[list(assembled.read)].any()


@pytest.mark.parametrize(
    ("name", "n_heads", "n_edges"),
    [
        ("hist", 1, 0),  # one count
        ("pair_balance", 2, 0),  # two fractions, subtracted by an MLP
        ("reverse", 2, 1),  # length -> the aggregate
        ("sort_freq", 3, 2),  # counts -> places by count -> the aggregate
        ("dyck", 5, 5),  # two fractions -> any below 0, and 0 at the last place, which needs length
    ],
)
def test_heads_and_edges_are_those_of_the_program(name, n_heads, n_edges):
    assembled = compiled.assemble(name)
    edges = list(compiled.edges(assembled))
    assert sum(map(len, assembled.heads)) == n_heads
    assert len(edges) == n_edges
    assert all(a[0] < b[0] for a, b in edges)


def test_edges_of_the_graph_are_those_of_the_program():
    """hist: the one head compares tokens, and an MLP turns its count into a number."""
    assembled = compiled.assemble("hist")
    assert set(compiled.graph_edges(assembled)) == {
        ("input", "a0.h0<q>"),
        ("input", "a0.h0<k>"),
        ("a0.h0", "m0"),
        ("m0", "logits"),
    }
    # the aggregate of reverse looks for the opposite place, and takes the token there
    reads = {r: w for w, r in compiled.graph_edges(compiled.assemble("reverse")) if r[-1] == ">"}
    assert [w for r, w in reads.items() if r.startswith("a3") and r.endswith("<q>")] == ["m2"]
    assert [w for r, w in reads.items() if r.startswith("a3") and r.endswith("<v>")] == ["input"]


def test_an_edge_on_which_no_answer_hangs_is_none_of_the_truth(reverse):
    """reverse: whatever the input, the place opposite of the last token is the first."""
    program, truth = compiled.assemble("reverse"), reverse.tokenizer.truth
    vocabulary, lengths = PROGRAMS["reverse"].vocabulary, range(1, 6)
    inputs = itertools.chain(*(itertools.product(vocabulary, repeat=n) for n in lengths))
    runs = [run(program, [BOS, *tokens], {})[0] for tokens in inputs]
    assert len(runs) == 4 + 4**2 + 4**3 + 4**4 + 4**5
    for mlp, same in (("m0", False), ("m1", True), ("m2", True)):
        assert (np.ptp([written[mlp][-1] for written in runs], axis=0).max() < 1e-3) == same
    all_edges = set(compiled.graph_edges(program))
    assert len(all_edges) == 8
    ((_, head),) = [place for place in truth.heads if place[0] == 3]
    found = {(w, r.replace(f"h{head}", "h0")) for w, r in truth.graph_edges if r[:2] == "a3"}
    assert found == {(w, r) for w, r in all_edges if r[:2] == "a3" and r[-2] != "q"}
    assert {r for _, r in truth.graph_edges if r[0] == "m"} == {"m0", "m1"}


@pytest.mark.parametrize("name", ["frac_prevs", "reverse"])
def test_answers_hang_on_edges_as_the_decoder_says(name):
    model = cj.load_model(f"tracr:{name}")
    task = cj.make_task("compiled", model.tokenizer, n=6, n_held_out=1, seed=0)
    graph, pairs = graph_of(model.config), task.learn
    prepared = graph_trial(model, pairs, "resample", task.metric)
    judged = jax.jit(functools.partial(interpose.replace_graph, model.config))

    def logits(keep):
        keep = keep.astype(np.float32)
        return np.asarray(judged(model.params, prepared.batch, keep, prepared.replacement))

    whole, seen = logits(np.ones(graph.is_edge.shape)), set()
    for edge in sorted(model.tokenizer.truth.graph_edges):
        moved = np.abs(logits(~graph.mask([edge])) - whole).max(axis=-1) > 1e-2
        texts = zip(pairs.positives, pairs.negatives, strict=True)
        said = [edge in model.tokenizer.uses(*prompts) for prompts in texts]
        assert moved.tolist() == said
        seen |= set(said)
    assert seen == {True, False}


@pytest.mark.parametrize("name", ["shift", "reverse", "sort_freq", "dyck"])
def test_edges_of_the_graph_lead_from_the_input_to_the_output(name):
    """And name parts that the model has: every head of the circuit reads and is read."""
    model = cj.load_model(f"tracr:{name}")
    graph, truth = graph_of(model.config), model.tokenizer.truth
    edges = graph.mask(truth.graph_edges)
    assert not (edges & ~graph.is_edge).any()
    heads = {f"a{layer}.h{head}" for layer, head in truth.heads}
    assert {w for w, _ in truth.graph_edges if w[0] == "a"} == heads
    assert any(reader == "logits" for _, reader in truth.graph_edges)


def test_heads_that_are_no_decoys_and_not_of_the_circuit_are_zero(reverse):
    used = np.any(np.asarray(reverse.params["layers"]["attention"]["o"]) != 0, axis=(2, 3))
    truth = reverse.tokenizer.truth
    assert used.sum() == len(truth.heads) + compiled.DECOYS * reverse.config.n_layers
    assert all(used[head] for head in truth.heads)
    assert {head for edge in truth.edges for head in edge} <= truth.heads


def test_decoys_move_and_change_nothing(reverse):
    task = cj.make_task("compiled", reverse.tokenizer, n=4)
    effects = np.asarray(cj.discover(reverse, task, "exact_patching").details["effects"])
    attention = reverse.params["layers"]["attention"]
    decoy = np.any(np.asarray(attention["o"])[..., -1 - compiled.N_DECOY : -1] != 0, axis=(2, 3))
    sides = [
        cj.head_outputs(reverse, prompts, "last")
        for prompts in (task.learn.positives, task.learn.negatives)
    ]
    moved = np.linalg.norm(sides[0] - sides[1], axis=-1).mean(axis=0)
    assert np.all(moved[decoy] > 0.05)
    np.testing.assert_allclose(effects[decoy], 0, atol=1e-5)
    assert all(abs(effects[head]) > 0.1 for head in reverse.tokenizer.truth.heads)


def test_a_model_of_a_name_is_always_the_same(reverse):
    again = cj.load_model("tracr:reverse")
    assert jax.tree.all(jax.tree.map(np.array_equal, again.params, reverse.params))
    assert again.tokenizer == reverse.tokenizer


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("tracr:revers", "float32", "did you mean 'reverse'"),
        ("tracr:reverse:few", "float32", "a number is needed"),
        ("tracr:reverse", "bfloat16", "float32 alone"),
    ],
)
def test_refuses(name, dtype, message):
    with pytest.raises(InputError, match=message):
        cj.load_model(name, dtype)
