"""Which heads of a circuit play which part of IOI (Wang et al., arXiv 2211.00593), by their views.

    ./run.sh circuits --config=configs/circuits/ioi.py --workdir=runs/ioi
    .venv/bin/python tests/bench/ioi_roles.py runs/ioi

First table: means over the pairs of the run's nodes.npz, positive prompts. S1, S2: the subject's
first and second place; IO: the answer's; end: the last token; k: any. Second table: what the others
do when the heads of one part say what they say in the negative prompts: the test of the first.
"""

import sys
from pathlib import Path

import numpy as np

from circuits_jax import interpose
from circuits_jax.circuits.names import split
from circuits_jax.decoder.decoder import Decoder
from circuits_jax.evaluation.node_views import PARTS, NodeViews, load_node_views
from circuits_jax.interpose.points import intercepted, observed
from circuits_jax.lm.load import load_model
from circuits_jax.runs.files import read_json
from circuits_jax.tasks import make_task

ROLES = {  # name -> rule on a head's numbers
    "previous token": lambda n: n["k to k-1"] >= 0.5,
    "duplicate token": lambda n: n["S2 to S1"] >= 0.5,
    "induction": lambda n: n["S2 to S1+1"] >= 0.5,
    "S-inhibition": lambda n: n["end to S2"] >= 0.3 and abs(n["to IO"]) + abs(n["to S"]) < 0.3,
    "name mover": lambda n: n["end to IO"] >= 0.3 and n["to IO"] - n["to S"] >= 0.3,
    "negative name mover": lambda n: n["end to IO"] >= 0.3 and n["to IO"] - n["to S"] <= -0.3,
    "subject suppressor": lambda n: n["end to S2"] >= 0.3 and n["to S"] <= -0.5,
}

LOOKED_AT = ("induction, S2 to S1+1", "S-inhibition, end to S2", "name movers, end to IO")


def places(views: NodeViews, pair: int, answer: int) -> tuple[int, int, int, int]:
    """S1, S2, IO and end in the positive prompt of a pair."""
    ids, other = views.token_ids[[pair, pair + len(views.prompts) // 2]]
    second = int(np.argmax(ids != other))
    first = int(np.argmax(ids == ids[second]))
    return first, second, int(np.argmax(ids == answer)), int((ids >= 0).sum()) - 1


def numbers(views: NodeViews, node: int, answers: list[int]) -> dict[str, float]:
    """What a head does, mean over pairs."""
    writer = list(views.writers).index(views.nodes[node])
    rows = []
    for pair, answer in enumerate(answers):
        s1, s2, io, end = places(views, pair, answer)
        pattern, read = views.pattern[node, pair], views.read[node, pair]
        rows.append(
            {
                "k to k-1": np.mean([pattern[k, k - 1] for k in range(1, end + 1)]),
                "S2 to S1": pattern[s2, s1],
                "S2 to S1+1": pattern[s2, s1 + 1],
                "end to S2": pattern[end, s2],
                "end to IO": pattern[end, io],
                "to IO": views.direct[pair, writer, 0],
                "to S": views.direct[pair, writer, 1],
                "read at S2": read[s2],
                "read at end": read[end],
            }
        )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def sources(views: NodeViews, node: int, n: int = 2) -> str:
    """The strongest sources of each part, by their mean share over pairs."""
    told = []
    for part, letter in enumerate(PARTS):
        total = np.zeros(len(views.writers))
        at, share = views.sources[node, :, part], views.passed[node, :, part]
        np.add.at(total, at[at >= 0], share[at >= 0] / len(at))
        best = np.argsort(-np.abs(total))[:n]
        named = (f"{views.writers[b]} {total[b]:+.2f}" for b in best if abs(total[b]) >= 0.01)
        if text := ", ".join(named):
            told.append(f"{letter}: {text}")
    return "; ".join(told)


def replaced(model, pairs, heads: set[tuple[int, int]]):
    """Patterns of all heads [L B H T T] and logits [B V], with some heads as in the negatives."""
    config, params = model.config, model.params
    positives, negatives = model.tokenize_pairs(pairs.positives, pairs.negatives)
    _, z = interpose.capture(config, params, negatives)
    stream = Decoder(config).apply({"params": params}, positives, method="embed")
    patterns = []
    for layer in range(config.n_layers):
        own = [head for at, head in heads if at == layer]

        def edit(module, call, *args, own=own, layer=layer):
            said = call(*args)
            return said.at[:, :, own].set(z[layer][:, :, own]) if own else said

        def keep(module, pattern, *args):
            patterns.append(np.asarray(pattern).reshape(len(pattern), -1, *pattern.shape[-2:]))

        with intercepted(z=edit), observed(pattern=keep):
            stream = interpose.run_layer(config, params, positives, layer, stream)[0]
    return np.stack(patterns), np.asarray(interpose.final_logits(config, params, positives, stream))


def looked_at(views: NodeViews, patterns, logits, task, found: dict[str, list]) -> list[float]:
    """Attention of each part where it is looked for, and the logit difference."""
    told = []
    for role in ("induction", "S-inhibition", "name mover"):
        rows = []
        for pair, answers in enumerate(task.learn.answers):
            s1, s2, io, end = places(views, pair, answers[0])
            query, key = {"induction": (s2, s1 + 1), "S-inhibition": (end, s2)}.get(role, (end, io))
            rows += [patterns[layer, pair, head, query, key] for layer, head in found[role]]
        told.append(float(np.mean(rows)))
    pairs = zip(logits, task.learn.answers, task.learn.foils, strict=True)
    return [*told, float(np.mean([one[a[0]] - one[f[0]] for one, a, f in pairs]))]


def main(run: Path) -> None:
    """Print the tables."""
    config, views = read_json(run / "config.json"), load_node_views(run / "nodes.npz")
    model = load_model(config["model"])
    given = {n: x for n, x in config["task"].items() if x is not None}
    task = make_task(tokenizer=model.tokenizer, seed=config["seed"], **given)
    answers = [ids[0] for ids in task.learn.answers[: len(views.prompts) // 2]]
    found = [numbers(views, node, answers) for node in range(len(views.nodes))]
    parts = {role: [] for role in ROLES}
    print("| part | head | " + " | ".join(found[0]) + " | draws on |")
    print("|" + " --- |" * (len(found[0]) + 3))
    for role, rule in ROLES.items():
        for node, one in enumerate(found):
            if rule(one):
                layer, head = split(views.nodes[node])
                parts[role].append((layer, head))
                cells = " | ".join(f"{value:.2f}" for value in one.values())
                print(f"| {role} | {layer}.{head} | {cells} | {sources(views, node)} |")
    columns = ("replaced", *LOOKED_AT, "logit difference")
    print("\n| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for role in ("nothing", "duplicate token", "induction", "S-inhibition", "name mover"):
        numbers_of = looked_at(
            views, *replaced(model, task.learn, {*parts.get(role, ())}), task, parts
        )
        print(f"| {role} | " + " | ".join(f"{value:.2f}" for value in numbers_of) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
