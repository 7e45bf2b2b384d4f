"""Mutual information between the grey levels of two images, in bits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from foveation_jax.metrics.checks import metric
from foveation_jax.metrics.levels import Images

BINS = 256


@metric()
def mutual_information(a: Images, b: Images) -> Float[Array, " N"]:
    """Mutual information in bits over the pixels of a channel, 256 bins, averaged over channels.

    I = sum p(u, v) log2(p(u, v) / (p(u) p(v))), levels u, v = round(255 value), the joint histogram
    taken as the probability (no bias correction). Between 0 and 8; symmetric; the mutual
    information of an image with itself is its entropy. Not differentiable: levels are counted.
    """
    levels_a, levels_b = (
        jnp.round(jnp.clip(v, 0, 1) * (BINS - 1)).astype(jnp.int32) for v in (a, b)
    )
    joint_levels = (levels_a * BINS + levels_b).reshape(a.shape[0], -1, a.shape[3])
    return jnp.mean(jax.vmap(jax.vmap(_bits, in_axes=1))(joint_levels), axis=1)


def _bits(joint_levels: Int[Array, " P"]) -> Float[Array, ""]:
    """Mutual information of one channel from its P joint levels u * BINS + v."""
    counts = jnp.zeros(BINS * BINS).at[joint_levels].add(1.0).reshape(BINS, BINS)
    joint = counts / joint_levels.size
    independent = jnp.sum(joint, axis=1, keepdims=True) * jnp.sum(joint, axis=0, keepdims=True)
    ratio = jnp.where(joint > 0, joint, 1.0) / jnp.where(joint > 0, independent, 1.0)
    return jnp.sum(joint * jnp.log2(ratio))
