"""A Llama as an explicit graph in NumPy, float64: every part reads a residual stream of its own.

Written from the equations, apart from the library: grouped keys and values, rotary embedding, RMS
norm, gated MLP. Slow and plain; for tests of edges.
"""

import numpy as np


def rms(x, scale, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * scale


def rotated(x, frequencies):
    """[B, T, K]: component i turns with i + K / 2."""
    angle = np.arange(x.shape[1])[:, None] * np.asarray(frequencies, np.float64)[None]
    a, b = np.split(x, 2, axis=-1)
    cos, sin = np.cos(angle)[None], np.sin(angle)[None]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def run(model, tokens, added=None, moved=None):
    """What every writer writes, by name, and the logits after the last token.

    Args:
        model: a tiny Llama; all prompts have the same length.
        tokens: [B, T].
        added: reader's name -> what is added to the residual stream that it alone sees, [B, T, D].
        moved: writer's name -> what is added to what it writes.
    """
    added, moved = added or {}, moved or {}
    c, p = model.config, tree_of_float64(model.params)
    layers, shared = p["layers"], c.n_heads // c.n_kv_heads
    seen = np.tril(np.ones((tokens.shape[1],) * 2, bool))[None]
    out = {"input": p["embedding"][tokens]}
    bias = 0  # what attention adds for all heads together

    def stream(reader):
        return sum(out.values()) + bias + added.get(reader, 0)

    def write(name, value):
        return value + moved.get(name, 0)

    out["input"] = write("input", out["input"])
    for at in range(c.n_layers):
        attention, mlp = (
            {k: v[at] for k, v in layers[part].items()} for part in ("attention", "mlp")
        )

        def read(reader, weight, at=at):
            return rms(stream(reader), layers["attention_norm"]["scale"][at], c.norm_eps) @ weight

        z = {}
        for head in range(c.n_heads):
            name, kv = f"a{at}.h{head}", head // shared
            q = rotated(read(f"{name}<q>", attention["q"][:, head]), c.rotary_frequencies[0])
            k = rotated(read(f"{name}<k>", attention["k"][:, kv]), c.rotary_frequencies[0])
            v = read(f"{name}<v>", attention["v"][:, kv])
            scores = np.einsum("btk,bsk->bts", q, k) * c.attention_scale
            pattern = softmax(np.where(seen, scores, -np.inf))
            z[name] = pattern @ v @ attention["o"][head]
        out |= {name: write(name, value) for name, value in z.items()}
        bias = bias + attention["o_bias"]
        x = rms(stream(f"m{at}"), layers["mlp_norm"]["scale"][at], c.norm_eps)
        gate = x @ mlp["gate"]
        hidden = gate / (1 + np.exp(-gate)) * (x @ mlp["up"])
        out[f"m{at}"] = write(f"m{at}", hidden @ mlp["down"])
    last = rms(stream("logits")[:, -1], p["final_norm"]["scale"], c.norm_eps)
    return out, last @ p["embedding"].T


def tree_of_float64(tree):
    if isinstance(tree, dict):
        return {name: tree_of_float64(value) for name, value in tree.items()}
    return np.asarray(tree, np.float64)
