"""Pairs of unequal length: do they find the heads that pairs of equal length find?

    python tests/bench/unequal_lengths.py [METHOD ...]

Five templates about a country, seven pairs each, on SmolLM2. Negatives of one token, as the
positives have, in five draws: how well the scores of one draw rank the 20 strongest heads of
another (mean ROC AUC) is what can be expected of any negatives. Negatives of two tokens, in four
draws, against the same five: what unequal lengths cost. Beside it, how many of the 20 strongest
heads are of layers 0 to 2, where a shift by one token would show.

    python tests/bench/unequal_lengths.py --field [METHOD ...]

One template and one draw of longer negatives, every method against exact patching of the same
positives with one-token negatives, in three draws; and these draws against one another. A line is
printed for every draw as it is done: exact patching of a draw takes minutes.
"""

import argparse
import itertools

import numpy as np
from sklearn.metrics import roc_auc_score

import circuits_jax as cj
from circuits_jax.tasks import PromptPairs, Task

COUNTRIES = ("Japan", "Italy", "Spain", "Egypt", "Greece", "Russia", "China")
CITIES = ("Tokyo", "Rome", "Madrid", "Cairo", "Athens", "Moscow", "Beijing")
TONGUES = ("Japanese", "Italian", "Spanish", "Arabic", "Greek", "Russian", "Chinese")
CAPITALS, LANGUAGES = (dict(zip(COUNTRIES, x, strict=True)) for x in (CITIES, TONGUES))
TEMPLATES = {
    "In our geography lesson we learned that the capital city of {} is": CAPITALS,
    "The capital of {} is the city of": CAPITALS,
    "Yesterday we flew to {}, and then took a train to its capital,": CAPITALS,
    "He was born in {} and his mother tongue is": LANGUAGES,
    "My neighbour comes from {}. At home her family speaks": LANGUAGES,
}
ONE = (
    "France", "Germany", "Poland", "Sweden", "Norway", "Kenya", "Peru", "Cuba", "Turkey",
    "Brazil", "Canada", "Mexico", "India", "Iran", "Iraq", "Vietnam", "Thailand", "Portugal",
    "Hungary", "Austria", "Finland", "Denmark", "Ireland", "Chile", "Argentina", "Nigeria",
    "Ghana", "Morocco", "Israel", "Lebanon", "Syria", "Jordan", "Nepal",
)  # fmt: skip
TWO = (
    "South Korea", "North Korea", "Saudi Arabia", "New Zealand", "South Africa", "Costa Rica",
    "Sri Lanka", "Puerto Rico", "Hong Kong", "El Salvador", "Sierra Leone", "Burkina Faso",
    "United Kingdom", "United States",
)  # fmt: skip
METHODS = ["attribution", "relp", "sae_codes", "exact_patching"]
TOP = 20
N_DRAWS = 3


def main() -> None:
    """The table of all templates, or the one field case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="*", default=METHODS)
    parser.add_argument("--field", action="store_true")
    options = parser.parse_args()
    model = cj.load_model("smollm2")
    (field_case if options.field else all_templates)(model, options.methods)


def field_case(model, methods: list[str]) -> None:
    """Print the agreement of every method with exact patching, of equal and of longer negatives."""
    template, answers = next(iter(TEMPLATES.items()))
    rng = np.random.default_rng(1)
    one, _ = names_for(model, template)
    draws = [rng.choice(one, len(answers), replace=False).tolist() for _ in range(N_DRAWS)]
    longer = list(TWO[: len(answers)])
    truth = []
    for names in draws:
        truth.append(scores(model, template, answers, names, "exact_patching"))
        print(f"exact patching, {', '.join(names)}: {early(model, truth[-1])} early", flush=True)
        for i, j in itertools.permutations(range(len(truth)), 2):
            if len(truth) - 1 in (i, j):
                print(f"  draw {i} against {j}: {agreement(truth[i], truth[j]):.3f}", flush=True)
    for method in methods:
        for kind, names in (("longer", longer), *(("equal", names) for names in draws)):
            if kind == "equal" and method == "exact_patching":
                continue
            found = scores(model, template, answers, names, method)
            against = " ".join(f"{agreement(found, other):.3f}" for other in truth)
            print(f"{method}, {kind}: {against}; {early(model, found)} early", flush=True)


def all_templates(model, methods: list[str]) -> None:
    """Print a row a template, and the means."""
    for method in methods:
        print(f"{method}: AUC of the top {TOP} of other draws; heads of layers 0 to 2 among own")
        rows = []
        for template, answers in TEMPLATES.items():
            rows.append(row(model, template, answers, method))
            print(f"  {template[:40]:40s} {text(rows[-1])}", flush=True)
        print(f"  {'mean':40s} {text(np.mean(rows, axis=0))}")


def row(model, template: str, answers: dict[str, str], method: str) -> list[float]:
    """AUC and early heads, of equal lengths and then of unequal ones."""
    rng = np.random.default_rng(1)
    one, two = names_for(model, template)

    def draws(names, count):
        chosen = (rng.choice(names, len(answers), replace=False).tolist() for _ in range(count))
        return [scores(model, template, answers, names, method) for names in chosen]

    equal, unequal = draws(one, 5), draws(two, 4)
    same = [agreement(a, b) for a, b in itertools.permutations(equal, 2)]
    other = [agreement(a, b) for a, b in itertools.product(unequal, equal)]
    return [
        float(np.mean(x))
        for x in (same, [early(model, a) for a in equal], other, [early(model, a) for a in unequal])
    ]


def names_for(model, template: str) -> list[list[str]]:
    """Countries whose prompts are as long as those of the positives, and those a token longer."""
    length = n_tokens(model, template.format("Japan"))
    return [
        [name for name in names if n_tokens(model, template.format(name)) == length + extra]
        for names, extra in ((ONE, 0), (TWO, 1))
    ]


def n_tokens(model, text: str) -> int:
    return int(model.tokenize([text]).mask.sum())


def scores(model, template, answers, negatives, method) -> np.ndarray:
    """Head scores of seven pairs."""
    first = {name: model.tokenizer(f" {word}").input_ids[0] for name, word in answers.items()}
    names = list(answers)
    pairs = PromptPairs(
        tuple(template.format(name) for name in names),
        tuple(template.format(name) for name in negatives),
        tuple((first[name],) for name in names),
        tuple((first[name],) for name in names[1:] + names[:1]),
    )
    task = Task("countries", "logit_diff", pairs, pairs)
    return np.asarray(cj.discover(model, task, method).head_scores)


def agreement(found: np.ndarray, truth: np.ndarray) -> float:
    """ROC AUC of scores against the `TOP` strongest heads of others."""
    strongest = np.zeros(truth.size, bool)
    strongest[np.argsort(-truth, axis=None)[:TOP]] = True
    return roc_auc_score(strongest, found.reshape(-1))


def early(model, found: np.ndarray) -> int:
    """Heads of layers 0 to 2 among the `TOP` strongest."""
    return int((np.argsort(-found, axis=None)[:TOP] < 3 * model.config.n_heads).sum())


def text(numbers) -> str:
    return "equal {:.3f} ({:.2f} early)  unequal {:.3f} ({:.2f} early)".format(*numbers)


if __name__ == "__main__":
    main()
