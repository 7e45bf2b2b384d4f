"""Tasks of templates and word lists: what a prompt says in one place decides its answer.

The negative prompt is the same template with another filling of which the answer is the foil, so
that a pair differs in what the answer depends on, and in nothing else. A task is a row of `SPECS`:
templates, and bags of fillings by answer; the two fillings of a pair come from one bag.

    gendered_pronouns   "So Evan is a really great friend, isn't" -> he (Mathwin et al. 2023)
    hypernymy           "roses and other" -> flowers (Hanna et al., arXiv 2403.17806)
    agreement           "The keys near the door" -> are (Linzen et al., arXiv 1611.01368)
    capitals            "The capital of France is the city of" -> Paris
    sports              "Fact: Kobe Bryant plays the sport of" -> basketball (Nanda et al. 2023)
    arithmetic          "4+3=" -> 7, after two sums as examples
    multiple_choice     the letter of the right colour (MIB's, arXiv 2504.13151)
    colored_objects     the colour of one object of three (Merullo et al., arXiv 2310.08744)
"""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from circuits_jax.runs.errors import InputError
from circuits_jax.tasks.base import PromptPairs, Task
from circuits_jax.tasks.ground_truth import ground_truths
from circuits_jax.tasks.tokens import Tokenizer, next_token, require_capacity, token_ids

Bag = Mapping[str, tuple[tuple[str, ...], ...]]  # answer -> fillings of a template's places


@dataclass(frozen=True)
class Spec:
    """What a task is made of.

    Attributes:
        templates: with places {0}, {1}, ... for a filling.
        bags: made when the task is: fillings of one bag make pairs with each other.
    """

    templates: tuple[str, ...]
    bags: Callable[[], Iterable[Bag]]


def _words(table: Mapping[str, str]) -> Callable[[], Iterable[Bag]]:
    """One bag of words by answer; in a word, _ stands for a space."""
    bag = {
        answer: tuple((word.replace("_", " "),) for word in words.split())
        for answer, words in table.items()
    }
    return lambda: [bag]


_MEN = (
    "John James Robert Michael William David Richard Joseph Thomas Charles Daniel Matthew Mark "
    "Paul Andrew Kevin Brian George Edward Ronald Jason Ryan Jacob Eric Stephen Scott Frank Peter"
)
_WOMEN = (
    "Mary Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Sarah Karen Lisa Nancy Margaret "
    "Ashley Emily Donna Michelle Amanda Melissa Laura Rebecca Amy Anna Emma Nicole Helen Rachel "
    "Maria"
)
_HYPERNYMS = {
    " animals": "dogs cats horses lions bears tigers elephants pigs rabbits goats foxes",
    " fruits": "apples oranges bananas grapes pears peaches cherries lemons strawberries mangoes",
    " vegetables": "carrots potatoes onions cabbage spinach beans peas broccoli lettuce celery",
    " birds": "eagles robins sparrows crows owls hawks pigeons parrots doves",
    " flowers": "roses tulips lilies daisies orchids violets sunflowers",
    " weapons": "guns swords rifles bombs knives spears pistols missiles",
    " vehicles": "cars trucks buses motorcycles vans taxis tractors",
    " tools": "hammers screwdrivers saws drills wrenches axes shovels",
    " insects": "ants bees beetles flies mosquitoes wasps moths butterflies",
    " furniture": "chairs tables desks sofas beds couches bookshelves",
    " countries": "France Germany Spain Italy Japan China Canada Brazil India Russia",
    " sports": "football basketball baseball tennis soccer hockey golf volleyball",
}
_SINGULAR = (
    "author pilot surgeon farmer manager customer officer teacher senator consultant guard chef "
    "architect dancer minister assistant doctor lawyer student book song movie picture game show "
    "poem novel key car house"
)
_CAPITALS = {
    " Vienna": "Austria",
    " Paris": "France",
    " Berlin": "Germany",
    " Rome": "Italy",
    " Madrid": "Spain",
    " London": "England",
    " Dublin": "Ireland",
    " Athens": "Greece",
    " Tokyo": "Japan",
    " Moscow": "Russia",
    " Beijing": "China",
    " Cairo": "Egypt",
    " Oslo": "Norway",
    " Stockholm": "Sweden",
    " Copenhagen": "Denmark",
    " Helsinki": "Finland",
    " Warsaw": "Poland",
    " Budapest": "Hungary",
    " Lisbon": "Portugal",
    " Ottawa": "Canada",
    " Havana": "Cuba",
    " Lima": "Peru",
    " Baghdad": "Iraq",
    " Tehran": "Iran",
    " Damascus": "Syria",
    " Bangkok": "Thailand",
    " Nairobi": "Kenya",
    " Santiago": "Chile",
    " Brussels": "Belgium",
    " Prague": "Czech_Republic",
    " Jakarta": "Indonesia",
    " Manila": "Philippines",
}
_ATHLETES = {
    " basketball": "Kobe_Bryant LeBron_James Kevin_Durant Michael_Jordan Stephen_Curry "
    "Russell_Westbrook James_Harden Kevin_Garnett Charles_Barkley Dwight_Howard Tim_Duncan",
    " football": "Tom_Brady Peyton_Manning Joe_Montana Drew_Brees Aaron_Rodgers Brett_Favre "
    "John_Elway Dan_Marino Eli_Manning Joe_Namath Walter_Payton",
    " baseball": "Babe_Ruth Derek_Jeter Barry_Bonds Mickey_Mantle Willie_Mays Hank_Aaron "
    "Alex_Rodriguez Ted_Williams Manny_Ramirez David_Ortiz Roberto_Clemente",
    " tennis": "Roger_Federer Rafael_Nadal Serena_Williams Andre_Agassi Pete_Sampras "
    "Novak_Djokovic Venus_Williams Maria_Sharapova",
    " golf": "Arnold_Palmer Jack_Nicklaus Phil_Mickelson Ben_Hogan Rory_McIlroy Sam_Snead",
}
_COLORS = ("red", "blue", "green", "yellow", "black", "white", "brown", "gray", "purple", "pink")
_OBJECTS = ("box", "cup", "pen", "book", "ball", "hat", "car", "shirt", "bag", "chair")

_SHOWN = ((1, 1), (2, 3), (2, 1), (1, 4))  # sums that are examples in prompts


def _sums() -> Iterable[Bag]:
    """All sums of two numbers of one digit, and of two, by their result."""
    for least, most in ((1, 9), (10, 49)):
        bag: dict[str, list[tuple[str, ...]]] = {}
        for a, b in itertools.product(range(least, most + 1), repeat=2):
            if (a, b) not in _SHOWN:
                bag.setdefault(str(a + b), []).append((str(a), str(b)))
        yield {answer: tuple(fillings) for answer, fillings in bag.items()}


def _choices() -> Iterable[Bag]:
    """For an object and four colours, the places that the right one can have."""
    for number, (thing, color) in enumerate(itertools.product(_OBJECTS[:5], _COLORS)):
        others = [one for one in _COLORS if one != color]
        chosen = [others[(number + step) % len(others)] for step in (0, 2, 5)]
        bag = {}
        for place, letter in enumerate("ABCD"):
            shown = (*chosen[:place], color, *chosen[place:])
            bag[f" {letter}"] = ((thing, color, *shown),)
        yield bag


def _colored() -> Iterable[Bag]:
    """For three objects and their colours, which one is asked for."""
    for things in itertools.combinations(_OBJECTS[:8], 3):
        number = sum(map(_OBJECTS.index, things))
        colors = [_COLORS[(number + step) % len(_COLORS)] for step in (0, 3, 7)]
        both = tuple(itertools.chain(*zip(colors, things, strict=True)))
        yield {f" {c}": ((*both, t),) for c, t in zip(colors, things, strict=True)}


SPECS: Mapping[str, Spec] = {
    "gendered_pronouns": Spec(
        (
            "So {0} is a really great friend, isn't",
            "I think that {0} is a very good cook, isn't",
            "Everyone says that {0} is the best player, isn't",
        ),
        _words({" he": _MEN, " she": _WOMEN}),
    ),
    "hypernymy": Spec(
        ("They sell {0} and other", "He talked about {0} and other", "She likes {0} and other"),
        _words(_HYPERNYMS),
    ),
    "agreement": Spec(
        ("The {0} near the window", "The {0} that I like", "The {0} behind the wall", "The {0}"),
        _words({" is": _SINGULAR, " are": " ".join(f"{word}s" for word in _SINGULAR.split())}),
    ),
    "capitals": Spec(
        (
            "The capital of {0} is the city of",
            "The capital city of {0} is",
            "We flew to {0}. Its capital is",
        ),
        _words(_CAPITALS),
    ),
    "sports": Spec(
        (
            "Fact: Tiger Woods plays the sport of golf\nFact: {0} plays the sport of",
            "Fact: Mike Tyson plays the sport of boxing\nFact: {0} plays the sport of",
        ),
        _words(_ATHLETES),
    ),
    "arithmetic": Spec(("1+1=2\n2+3=5\n{0}+{1}=", "2+1=3\n1+4=5\n{0}+{1}="), _sums),
    "multiple_choice": Spec(
        (
            "A {0} is {1}. What color is a {0}?\nA. {2}\nB. {3}\nC. {4}\nD. {5}\nAnswer:",
            "Question: The {0} is {1}. What color is the {0}?\nA. {2}\nB. {3}\nC. {4}\nD. {5}\n"
            "Answer:",
        ),
        _choices,
    ),
    "colored_objects": Spec(
        (
            "Q: On the table, I see a {0} {1}, a {2} {3}, and a {4} {5}. What color is the {6}?\n"
            "A: The color of the {6} is",
            "On the floor, there is a {0} {1}, a {2} {3}, and a {4} {5}. The color of the {6} is",
        ),
        _colored,
    ),
}


def from_templates(tokenizer: Tokenizer, *, n: int, n_held_out: int, seed: int, name: str) -> Task:
    """The task of a row of `SPECS`: answer and foil are one token each, metric logit_diff.

    No prompt comes twice, be it positive or negative. In each split, answers come equally often, as
    do templates (counts differ by one at most while fillings last). The two prompts of a pair have
    equal numbers of tokens where fillings allow it. The pairs that learn do not depend on
    n_held_out.

    Args:
      tokenizer: fillings whose answer is not one token of it, after each template, are not used.
      n: pairs that learn.
      n_held_out: pairs held out.
      seed: same seed, same prompts.
      name: of the row.

    Raises:
      InputError: fewer than two answers are single tokens, or more pairs are asked for than there
        are fillings for.
    """
    spec, rng = SPECS[name], np.random.default_rng(seed)
    cells = _cells(tokenizer, spec)
    answers = sorted({answer for cell in cells for answer in cell.prompts})
    if len(answers) < 2:
        raise InputError(
            f"task {name!r} has {len(answers)} answers that are one token for this tokenizer; "
            "needed are at least 2 in one prompt"
        )
    rng.shuffle(cells)
    for cell in cells:
        for prompts in cell.prompts.values():
            rng.shuffle(prompts)
    rows: list[list] = [[], []]
    for part, count in zip(rows, (n, n_held_out), strict=True):
        used = _Used(Counter(), Counter(), Counter())
        while len(part) < count:
            cells = [cell for cell in cells if cell.open]
            if not cells:
                what = "two fillings of a template each, of different answers"
                require_capacity(n + n_held_out, sum(map(len, rows)), what)
            part.append(_drawn(tokenizer, cells, used, rng))
    learn, held_out = (PromptPairs(*map(tuple, zip(*part, strict=True))) for part in rows)
    options = {"n": n, "n_held_out": n_held_out, "seed": seed}
    return Task(name, "logit_diff", learn, held_out, ground_truths(name), options)


@dataclass
class _Cell:
    """What is left of the prompts of one template and bag, by answer; each may serve once."""

    template: int
    prompts: dict[str, list[str]]

    @property
    def open(self) -> bool:
        """Whether prompts of two answers are left."""
        return sum(map(bool, self.prompts.values())) > 1


@dataclass
class _Used:
    """How often a split has used each answer, foil and template."""

    answers: Counter
    foils: Counter
    templates: Counter


def _cells(tokenizer: Tokenizer, spec: Spec) -> list[_Cell]:
    cells = []
    for bag, template in itertools.product(list(spec.bags()), range(len(spec.templates))):
        texts = {
            answer: [spec.templates[template].format(*filling) for filling in fillings]
            for answer, fillings in bag.items()
        }
        fits = {
            answer: prompts
            for answer, prompts in texts.items()
            if next_token(tokenizer, prompts[0], answer) is not None
        }
        if len(fits) > 1:
            cells.append(_Cell(template, fits))
    return cells


def _drawn(
    tokenizer: Tokenizer, cells: list[_Cell], used: _Used, rng: np.random.Generator
) -> tuple[str, str, tuple[int], tuple[int]]:
    """The next pair: of what is left, what was used least; its prompts are taken out."""

    def least(found: Iterable[str], counts: Counter) -> str:
        found = sorted(found)
        places = rng.permutation(len(found))
        return min(zip(found, places, strict=True), key=lambda one: (counts[one[0]], one[1]))[0]

    left = {answer for cell in cells for answer, prompts in cell.prompts.items() if prompts}
    answer = least(left, used.answers)
    cell = min(
        (cell for cell in cells if cell.prompts.get(answer)),
        key=lambda one: used.templates[one.template],
    )
    others = {one for one, prompts in cell.prompts.items() if prompts and one != answer}
    foil = least(others, used.foils)
    positive = cell.prompts[answer].pop()
    prompts = cell.prompts[foil]
    length = len(token_ids(tokenizer, positive))
    same = [i for i, text in enumerate(prompts) if len(token_ids(tokenizer, text)) == length]
    negative = prompts.pop(same[-1] if same else -1)
    used.answers[answer] += 1
    used.foils[foil] += 1
    used.templates[cell.template] += 1
    right, wrong = (next_token(tokenizer, positive, one) for one in (answer, foil))
    if right is None or wrong is None:
        raise InputError(f"{answer!r} and {foil!r} are not one token each after {positive!r}")
    return positive, negative, (right,), (wrong,)


BUILDERS = {name: functools.partial(from_templates, name=name) for name in SPECS}
