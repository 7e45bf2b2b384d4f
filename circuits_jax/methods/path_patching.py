r"""Exact path patching of single edges: what one head hears from another, and nothing else.

Path patching (Wang et al., arXiv 2211.00593; Goldowsky-Dill et al., arXiv 2304.05969) of the direct
edge g -> g', head g of an earlier layer, head g' of a later one, in the graph of
`circuits/graph.py`: the queries, keys and values of g' alone are computed from the residual stream
in which what g writes is that of the paired negative; all else up to g' is as on the positive; what
comes after responds.

    effect(g -> g') = m(positive) - m(positive with g' so)
    direct_g        = m(positive) - m(positive with the logits alone reading the negative's g)

Where parts after g are without interaction (such as one further layer of heads, without norms and
MLPs), direct_g and the effects of all edges out of g sum to the effect of patching g itself.

Cost: three forward passes, then for each edge the layers from g' up, and the attention of g' once
more: about half a forward pass; edges into one layer share its attention. No backward pass.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from circuits_jax import interpose
from circuits_jax.capture.ablation import Trial
from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.decoder.decoder import Decoder
from circuits_jax.runs import devices, mesh
from circuits_jax.tasks import metric_values


def path_change(
    config: DecoderConfig,
    params: Any,
    trial: Trial,
    metric: str,
    edges: Int[np.ndarray, "E 2"],
    edges_at_once: int = 16,
) -> tuple[Float[np.ndarray, " E"], Float[np.ndarray, "L H"]]:
    """Mean change of the metric for every asked edge, and for every head's way to the logits.

    Args:
        config: of the model.
        params: of the model.
        trial: the prompts, and what heads say on their counterparts.
        metric: the task's.
        edges: pairs (g, g') of heads, g of an earlier layer.
        edges_at_once: edges into one layer that share a pass, all devices together, at most; fewer
            where prompts are many or long (`mesh.fitting`).
    """
    edges_at_once = config.fitting(edges_at_once, *trial.batch.tokens.shape)
    layers, slots = _by_reader_layer(edges[:, 1] // config.n_heads, edges_at_once)
    change, direct = _path_change(config, params, trial, metric, layers, edges[slots])
    values = np.zeros(len(edges), np.float32)
    values[slots.T] = np.asarray(mesh.gather(change, slots.shape[1]))
    return values, devices.fetched(direct)


def _by_reader_layer(
    layers: Int[np.ndarray, " E"], width: int
) -> tuple[Int[np.ndarray, " C"], Int[np.ndarray, "C S"]]:
    """Chunks of edges into one layer: their layers, and indices of edges, the last filled up."""
    chunks = [
        np.resize(inside[start : start + width], width)
        for layer in np.unique(layers)
        for inside in [np.flatnonzero(layers == layer)]
        for start in range(0, len(inside), width)
    ]
    slots = np.array(chunks, int).reshape(-1, width)
    return layers[slots[:, 0]], slots


@functools.partial(jax.jit, static_argnames=("config", "metric"))
def _path_change(config, params, trial, metric, layers, edges):
    """Changes by slot and chunk, before they are gathered, and the direct ones [L, H]."""
    embedding = Decoder(config).apply({"params": params}, trial.batch, method="embed")

    def step(stream, layer):
        after, written = interpose.run_layer(config, params, trial.batch, layer, stream)
        return after, (stream, written.z)

    last, (streams, z) = jax.lax.scan(step, embedding, jnp.arange(config.n_layers))
    logits = interpose.final_logits(config, params, trial.batch, last)
    whole = metric_values(logits, trial.targets, metric)

    def change(logits, trial, whole):
        return jnp.mean(metric_values(logits, trial.targets, metric) - whole)

    def difference(g, params, trial, z):  # what head g writes: replacement less its own
        layer, head = g // config.n_heads, g % config.n_heads
        new = z[layer].at[:, :, head].set(trial.replacement[layer][:, :, head])
        write = functools.partial(interpose.attention_out, config, params, layer)
        return write(new) - write(z[layer])

    def of_slot(slot, constants):
        params, trial, whole, streams, z, layers, edges = constants

        def patch(chunk):  # layers are the same for all slots, so those below are skipped
            layer, (writer, reader) = layers[chunk], edges[chunk, slot]
            stream = streams[layer] + difference(writer, params, trial, z)
            heard = interpose.z_from(config, params, trial.batch, layer, stream)
            head = reader % config.n_heads
            patched = interpose.resume(
                config, params, trial.batch, layer, streams[layer], head, heard[:, :, head]
            )
            return change(patched, trial, whole)

        return jax.lax.map(patch, jnp.arange(len(layers)))

    def direct(g):
        stream = last + difference(g, params, trial, z)
        return change(interpose.final_logits(config, params, trial.batch, stream), trial, whole)

    constants = (params, trial, whole, streams, z, layers, edges)
    slots = mesh.spread(of_slot, jnp.arange(edges.shape[1]), constants, None)
    return slots, jax.lax.map(direct, jnp.arange(z.shape[0] * z.shape[3])).reshape(config.heads)
