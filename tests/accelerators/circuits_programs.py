"""The hot programs of circuits_jax: (name, function, shapes), by model, prompts and tokens.

Tests lower them small for other platforms, `lower.py` compiles them at the sizes of real models.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from circuits_jax import interpose
from circuits_jax.capture import head_outputs
from circuits_jax.capture.ablation import Trial
from circuits_jax.capture.forked import ForkedBatch
from circuits_jax.capture.head_outputs import GraphReading
from circuits_jax.capture.node_passes import chosen, pair_views
from circuits_jax.circuits.graph import graph_of
from circuits_jax.codes import sae
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.decoder.decoder import TokenBatch, initial_params
from circuits_jax.evaluation import graph_faithfulness, masked_passes
from circuits_jax.evaluation.captured import CapturedOutputs
from circuits_jax.evaluation.graph_faithfulness import GraphTrial
from circuits_jax.evaluation.node_views import N_SOURCES, N_TOKENS, read_from
from circuits_jax.evaluation.stability import resampled_scores
from circuits_jax.interpose import Rules
from circuits_jax.lm.placement import shardings
from circuits_jax.methods import edges
from circuits_jax.methods.attribution import Attribution
from circuits_jax.methods.attribution import _effects as attributed
from circuits_jax.methods.exact_patching import _patched_change
from circuits_jax.methods.relp import Relp
from circuits_jax.methods.sae_codes import SaeCodes, _graph_coded, starts
from circuits_jax.runs import devices
from circuits_jax.tasks.base import Targets
from tests.accelerators.program import Program

GPT2 = {
    "family": "gpt2",
    "vocab_size": 50257,
    "n_positions": 1024,
    "norm": "layer",
    "activation": "gelu_tanh",
    "qkv_bias": True,
    "out_bias": True,
    "mlp_bias": True,
    "tied": True,
    "learned_positions": True,
    "head_width": 64,
    "attention_scale": 0.125,
}
LLAMA = {
    "family": "llama",
    "vocab_size": 128256,
    "n_positions": 8192,
    "norm": "rms",
    "activation": "silu",
    "gated_mlp": True,
    "head_width": 128,
    "attention_scale": 128**-0.5,
    "rotary_width": 128,
    "rotary_frequencies": (tuple(500000.0 ** -(np.arange(64) / 64)),),
}


def gpt2(n_layers: int, n_heads: int) -> DecoderConfig:
    """GPT-2 of any size: small 12 x 12, XL 48 x 25."""
    d = 64 * n_heads
    return DecoderConfig(
        **GPT2, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_heads, d_model=d, d_mlp=4 * d
    )


def llama(n_layers: int, n_heads: int, d_mlp: int) -> DecoderConfig:
    """Llama 3 of any size: 8B 32 x 32 x 14336, 70B 80 x 64 x 28672; 8 key-value heads."""
    return DecoderConfig(
        **LLAMA,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=8,
        d_model=128 * n_heads,
        d_mlp=d_mlp,
    )


# No two of its numbers are the same, so that a loop tells what it goes over.
TINY = dataclasses.replace(
    gpt2(2, 7), vocab_size=40, n_positions=32, head_width=4, d_model=28, d_mlp=44
)


def shapes_of(config: DecoderConfig, dtype: str):
    """Parameters as shapes, in the places that the mesh in use has for them."""
    params = jax.eval_shape(lambda: initial_params(config, jax.random.key(0)))
    places = shardings(params, devices.mesh())

    def one(path, leaf, place):
        norm = path[-1].key in ("scale", "bias")
        kind = jnp.float32 if norm else jnp.dtype(dtype)
        return jax.ShapeDtypeStruct(leaf.shape, kind, sharding=place)

    return jax.tree_util.tree_map_with_path(one, params, places)


def programs(
    config: DecoderConfig = TINY, pairs: int = 5, tokens: int = 12, dtype: str = "float32"
) -> dict[str, Program]:
    """Name -> program, of `pairs` pairs of prompts."""
    params = shapes_of(config, dtype)

    def array(*shape, kind=jnp.float32):
        return jax.ShapeDtypeStruct(shape, kind)

    h, k, layers, d = config.n_heads, config.head_width, config.n_layers, config.d_model

    def both(length):
        return array(pairs, length, kind=jnp.int32), array(pairs, length, kind=bool)

    replacement = array(layers, pairs, tokens, h, k, kind=jnp.dtype(dtype))
    batch = both(tokens)
    targets = (*both(1), *both(1))
    trial = (*batch, *targets, replacement)
    settings = SaeCodes()
    graph = graph_of(config)
    points = edges.positive_point(graph)
    relp = Rules(norms=True, activations=True, gates=True, attention=Relp().attention)
    seldom = (h, layers * h, pairs)
    wide = dataclasses.replace(config, n_kv_heads=h)

    ending = tokens // 2

    def read(params, tokens, mask):
        forked = ForkedBatch(tokens, mask, n_ending=ending)
        return head_outputs._at_peak(config, params, forked, 0.65)

    def read_graph(params, tokens, mask, *answers):
        forked, goal = ForkedBatch(tokens, mask, n_ending=ending), Targets(*answers)
        return head_outputs._graph_at_peak(config, params, forked, goal, 0.65, "logit_diff")

    def judge_graph(params, keep, replacement, *trial):
        kept = GraphTrial(TokenBatch(*trial[:2]), Targets(*trial[2:]), replacement)
        return graph_faithfulness._metric_under(config, params, kept, keep, "logit_diff")

    def prepared(tokens, mask, *rest):
        return Trial(TokenBatch(tokens, mask), Targets(*rest[:4]), rest[4])

    widths = config.head_width, d
    begun = [
        starts(jax.random.key(0), shape, settings, width)
        for shape, width in zip(
            ((2 * pairs, layers, h, d), (2 * pairs, layers + 1, 1, d)), widths, strict=True
        )
    ]

    def code(*reading):
        return _graph_coded(GraphReading(*reading), begun, settings, widths, graph)

    def tokens_to_scores(params, tokens, mask, *answers):
        reading = read_graph(params, tokens, mask, *answers)
        return _graph_coded(reading, begun, settings, widths, graph)

    def view(params, tokens, mask, answers):
        one = ForkedBatch(tokens, mask, n_ending=tokens.shape[1] // 2)
        looked_at = chosen(config, np.arange(1, h + 2))  # all of a layer
        given = one, looked_at, read_from(graph), answers
        return pair_views(config, params, *given, N_TOKENS, N_SOURCES)

    def bootstrapped(x, scale, rows, *leaves):
        captured = CapturedOutputs(x, scale, config.heads, d)
        seed = np.zeros(len(rows), int)
        return resampled_scores(sae.SaeParams(*leaves), captured, seed, rows, settings)

    codes, rank = settings.n_codes, min(pairs, k, d)
    axes = (rank, codes), (codes,), (codes, rank), (rank,)
    trained = [array(1, 1, layers * h, *shape) for shape in axes]
    captured = array(layers * h, 2 * pairs, rank), array(layers * h)
    one_pair = array(1, 2 * tokens, kind=jnp.int32), array(1, 2 * tokens, kind=bool)
    passed = array(pairs, *graph.is_edge.shape)
    reading = array(pairs, layers, h, d), array(pairs, layers + 1, 1, d), passed

    def effects(rules):
        def run(params, *leaves):
            batches = TokenBatch(*leaves[:2]), TokenBatch(*leaves[2:4])
            answers = Targets(*leaves[4:])
            return edges._effects(wide, params, *batches, answers, points, "logit_diff", rules, 8)

        return run

    def attribute(params, *trial):
        return attributed(config, params, prepared(*trial), "logit_diff", Attribution(), None)

    def patch(params, *trial):
        everywhere = jnp.ones((1, pairs, tokens), bool)
        return _patched_change(config, params, prepared(*trial), "logit_diff", 16, everywhere)

    def judge(params, keep, *trial):
        return masked_passes._metric_under(config, params, prepared(*trial), keep, "logit_diff", 4)

    ungrouped = shapes_of(wide, dtype)
    given = params, *trial
    written = array(len(graph.writers), pairs, tokens, d)
    masks = array(4, layers, h)
    return {
        "decoder": Program(
            lambda p, *b: interpose.last_logits(config, p, TokenBatch(*b)),
            (params, *batch),
            True,
            seldom,
        ),
        "codes: reading": Program(read, (params, *both(tokens + ending)), True, seldom),
        "codes: reading the graph": Program(
            read_graph, (params, *both(tokens + ending), *targets), True, seldom
        ),
        "codes: from what is read to scores": Program(code, reading, True, seldom),
        "codes: from tokens to scores": Program(
            tokens_to_scores, (params, *both(tokens + ending), *targets), True, seldom
        ),
        "codes: bootstrap": Program(
            bootstrapped, (*captured, array(20, pairs, kind=jnp.int32), *trained), True, seldom
        ),
        "nodes of a pair": Program(
            view, (params, *one_pair, array(2, config.vocab_size)), True, (h, layers * h)
        ),
        "attribution": Program(attribute, given, True, seldom),
        "exact patching": Program(patch, given, True, seldom),
        "edge attribution": Program(
            effects(Rules()), (ungrouped, *batch, *batch, *targets), True, seldom
        ),
        "relevance patching": Program(
            effects(relp), (ungrouped, *batch, *batch, *targets), True, seldom
        ),
        "circuits judged": Program(judge, (params, masks, *trial), True, seldom),
        "circuits of the graph judged": Program(
            judge_graph,
            (params, array(4, *graph.is_edge.shape), written, *batch, *targets),
            True,
            seldom,
        ),
    }


BY_NAME = {
    "GPT-2 small": functools.partial(programs, gpt2(12, 12)),
    "GPT-2 XL": functools.partial(programs, gpt2(48, 25)),
    "Llama 8B": functools.partial(programs, llama(32, 32, 14336), dtype="bfloat16"),
    "Llama 70B": functools.partial(programs, llama(80, 64, 28672), dtype="bfloat16"),
}
