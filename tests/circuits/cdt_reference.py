"""CD-T's published rules for one head and one prompt of a GPT-2-like model, in float64 NumPy."""

import numpy as np


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def share_bias(b, c, bias, by_b, by_c):
    size = np.abs(by_b) + np.abs(by_c) + 1e-8
    return b + bias * np.abs(by_b) / size, c + bias * (1 - np.abs(by_b) / size)


def linear(b, c, weight, bias):
    b, c = b @ weight, c @ weight
    return share_bias(b, c, bias, b, c)


def layer_norm(b, c, p, eps):
    total = b + c
    scale = p["scale"] / np.sqrt(total.var(axis=-1, keepdims=True) + eps)
    centred = [(x - x.mean(axis=-1, keepdims=True)) * scale for x in (b, c)]
    return share_bias(*centred, p["bias"], b, c)


def resolve(b, c):
    out_b, out_c = b.copy(), c.copy()
    for i in np.ndindex(b.shape):
        if b[i] * c[i] < 0:
            mine = abs(b[i]) >= abs(c[i])
            out_b[i], out_c[i] = (b[i] + c[i], 0) if mine else (0, b[i] + c[i])
    return out_b, out_c


def decomposition(config, params, tokens, source, irrelevant):
    """Relevant and irrelevant logits after the last token; `irrelevant` is [T K] of the source."""
    embedded = params["embedding"][tokens] + params["position_embedding"][: len(tokens)]
    b, c = np.zeros_like(embedded), embedded
    causal = np.where(np.tril(np.ones((len(tokens),) * 2)), 0, -np.inf)
    for layer in range(config.n_layers):
        p = {
            part: {name: np.asarray(x[layer], np.float64) for name, x in own.items()}
            for part, own in params["layers"].items()
        }
        attention, mlp = p["attention"], p["mlp"]
        norm_b, norm_c = layer_norm(b, c, p["attention_norm"], config.norm_eps)
        z_b, z_c = [], []
        for head in range(config.n_heads):
            q, k = (
                (norm_b + norm_c) @ attention[n][:, head] + attention[f"{n}_bias"][head]
                for n in "qk"
            )
            pattern = softmax(q @ k.T * config.attention_scale + causal)
            v = linear(norm_b, norm_c, attention["v"][:, head], attention["v_bias"][head])
            head_b, head_c = (pattern @ part for part in v)
            if (layer, head) == source:
                head_b, head_c = head_b + head_c - irrelevant, irrelevant
            z_b.append(head_b)
            z_c.append(head_c)
        z_b, z_c = (np.concatenate(z, axis=1) for z in (z_b, z_c))
        out = linear(z_b, z_c, attention["o"].reshape(z_b.shape[1], -1), attention["o_bias"])
        b, c = b + out[0], c + out[1]
        hidden = layer_norm(b, c, p["mlp_norm"], config.norm_eps)
        hidden = resolve(*linear(*hidden, mlp["up"], mlp["up_bias"]))
        hidden = gelu(sum(hidden)) - gelu(hidden[1]), gelu(hidden[1])
        out = resolve(*linear(*hidden, mlp["down"], mlp["down_bias"]))
        b, c = resolve(b + out[0], c + out[1])
    b, c = layer_norm(b[-1:], c[-1:], params["final_norm"], config.norm_eps)
    return b[0] @ params["embedding"].T, c[0] @ params["embedding"].T
