"""Glossary of axes. Every annotation and every einsum in circuits_jax uses these letters.

    B  examples (prompts)            T  tokens (positions)         V  vocabulary
    L  layers                        H  heads in a layer           G  all heads, G = L * H
    K  width of a head               D  width of the residual stream
    J  key-value heads in a layer    I  query heads of each of them, H = I * J
    E  width of an MLP, of all its experts together             X  experts
    N  examples of an autoencoder    R  width of the basis it works in (R = D, or the rank)
    F  codes of an autoencoder       S  seeds                      P  settings
    M  masks of heads (circuits judged at once)
    A  answers of a prompt          Y  tokens of an answer
    Q  tokens of a row that are looked at: after which logits are wanted, or where pairs differ

Heads are numbered layer by layer: head (l, h) is g = l * H + h, so [L, H] and [G] arrays reshape
into one another.
"""
