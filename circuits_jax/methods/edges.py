"""Edge scores of methods that say nothing of edges themselves."""

from jaxtyping import Array, Float

from circuits_jax.codes import directed


def product_edges(head_scores: Float[Array, "L H"]) -> Float[Array, "G G"]:
    """Product of the two heads' scores, from an earlier to a later layer; 0 elsewhere.

    No more than a ranking of pairs by their ends: it holds no evidence that one head reads the
    other. Scores must be 0 or above.
    """
    scores = head_scores.reshape(-1)
    return directed(scores[:, None] * scores[None, :], head_scores.shape)
