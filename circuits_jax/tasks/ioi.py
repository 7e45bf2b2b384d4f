"""Indirect object identification (Wang et al., arXiv 2211.00593).

"After Anna and Mark walked to the market, Mark gave a coin to" is followed by " Anna", the
indirect object (IO); the repeated name is the subject (S). A negative prompt puts a third name in
place of the second S, so that nothing tells which of the first two received the object; it differs
from its positive prompt in that one token.
"""

import numpy as np

from circuits_jax.runs.errors import InputError
from circuits_jax.tasks.base import PromptPairs, Task
from circuits_jax.tasks.ground_truth import ground_truths
from circuits_jax.tasks.tokens import (
    Tokenizer,
    answer_token,
    balanced,
    changed_positions,
    require_capacity,
    single_token_words,
)

TEMPLATES = (
    "After {first} and {second} walked to the {place}, {giver} gave a {object} to",
    "While {first} and {second} were at the {place}, {giver} gave a {object} to",
    "Before {first} and {second} left the {place}, {giver} gave a {object} to",
    "Yesterday, {first} and {second} met at the {place}, and {giver} gave a {object} to",
    "On Monday, {first} and {second} sat in the {place}, and {giver} gave a {object} to",
    "As {first} and {second} waited outside the {place}, {giver} gave a {object} to",
    "Once {first} and {second} arrived at the {place}, {giver} gave a {object} to",
    "Because {first} and {second} were bored at the {place}, {giver} gave a {object} to",
    "Last summer, {first} and {second} drove to the {place}, where {giver} gave a {object} to",
    "In the morning, {first} and {second} ran to the {place}. Then {giver} gave a {object} to",
    "Everyone saw {first} and {second} at the {place}. Later, {giver} gave a {object} to",
    "When {first} and {second} came back from the {place}, {giver} gave a {object} to",
    "At noon, {first} and {second} entered the {place}, and {giver} gave a {object} to",
    "That evening, {first} and {second} talked near the {place}, and {giver} gave a {object} to",
    "Since {first} and {second} both liked the {place}, {giver} gave a {object} to",
)
PLACES = ("market", "library", "museum", "beach", "village", "bakery", "hotel", "farm")
OBJECTS = ("book", "coin", "flower", "letter", "ticket", "cookie", "pencil", "camera")
_NAMES = (
    "Mary John James Robert Michael William David Richard Joseph Thomas Charles Daniel Matthew "
    "Anthony Mark Donald Steven Paul Andrew Joshua Kenneth Kevin Brian George Edward Ronald "
    "Timothy Jason Jeffrey Ryan Jacob Gary Nicholas Eric Jonathan Stephen Larry Justin Scott "
    "Brandon Benjamin Samuel Gregory Frank Alexander Raymond Patrick Jack Dennis Jerry Tyler "
    "Aaron Adam Henry Nathan Peter Kyle Walter Jeremy Keith Roger Simon Martin Patricia "
    "Jennifer Linda Elizabeth Barbara Susan Jessica Sarah Karen Lisa Nancy Margaret Sandra "
    "Ashley Emily Donna Michelle Carol Amanda Melissa Stephanie Rebecca Laura Sharon Kathleen "
    "Amy Angela Anna Emma Nicole Helen Samantha Katherine Christine Rachel Catherine Maria "
    "Heather Diane Julie Joyce Victoria Kelly Christina Lauren Alice Jane Ruth Sophie Claire "
    "Kate"
)
NAMES = tuple(_NAMES.split())


def ioi(tokenizer: Tokenizer, *, n: int, n_held_out: int, seed: int) -> Task:
    """The IOI task: answer IO, foil S, metric logit_diff.

    Templates, the orders ABBA and BABA, places and objects are balanced in each split; no ordered
    pair (IO, S) comes twice, and names serve in rounds, so that each is IO equally often (the
    counts differ by one at most), and S likewise. The pairs that learn do not depend on n_held_out.

    Args:
      tokenizer: names of more than one token for it are not used.
      n: pairs that learn.
      n_held_out: pairs held out.
      seed: same seed, same prompts.

    Raises:
      InputError: fewer than three names are single tokens, or more pairs are asked for than there
        are ordered pairs of names.
    """
    rng = np.random.default_rng(seed)
    names = single_token_words(
        tokenizer, NAMES, ("Yesterday, ",), needed=3, kind="of the first names of the IOI task"
    )
    require_capacity(
        n + n_held_out,
        len(names) * (len(names) - 1),
        f"one for each ordered pair of the {len(names)} names of one token",
    )
    triples = _name_triples(rng, names, n + n_held_out)
    return Task(
        name="ioi",
        metric="logit_diff",
        learn=_pairs(rng, tokenizer, triples[:n]),
        held_out=_pairs(rng, tokenizer, triples[n:]),
        truths=ground_truths("ioi"),
        options={"n": n, "n_held_out": n_held_out, "seed": seed},
    )


def _name_triples(
    rng: np.random.Generator, names: tuple[str, ...], count: int
) -> list[tuple[str, str, str]]:
    """`count` times (IO, S, third name), all three different and no (IO, S) twice.

    As in a round-robin tournament: in round r name i meets name i + shift[r], so each round uses
    every name once as IO and once as S.
    """
    shuffled = rng.permutation(names)
    shifts = 1 + rng.permutation(len(names) - 1)
    io, rounds = np.arange(count) % len(names), np.arange(count) // len(names)
    subject = io + shifts[rounds]
    third = io + shifts[(rounds + 1) % len(shifts)]
    table = shuffled[np.stack([io, subject, third], axis=-1) % len(names)]
    return [(str(a), str(b), str(c)) for a, b, c in table]


def _pairs(
    rng: np.random.Generator, tokenizer: Tokenizer, triples: list[tuple[str, str, str]]
) -> PromptPairs:
    """One pair for each triple of names, with templates, orders, places and objects in balance."""
    count = len(triples)
    draws = zip(
        balanced(rng, len(TEMPLATES), count),
        balanced(rng, 2, count),
        balanced(rng, len(PLACES), count),
        balanced(rng, len(OBJECTS), count),
        triples,
        strict=True,
    )
    positives, negatives, answers, foils = [], [], [], []
    for template, swapped, place, object_, (io, subject, third) in draws:
        first, second = (subject, io) if swapped else (io, subject)
        positive, negative = (
            TEMPLATES[template].format(
                first=first,
                second=second,
                place=PLACES[place],
                object=OBJECTS[object_],
                giver=giver,
            )
            for giver in (subject, third)
        )
        if len(changed_positions(tokenizer, positive, negative)) != 1:
            raise InputError(
                f"{subject!r} and {third!r} are not one token each in the prompt {positive!r}"
            )
        positives.append(positive)
        negatives.append(negative)
        answers.append((answer_token(tokenizer, positive, " " + io),))
        foils.append((answer_token(tokenizer, positive, " " + subject),))
    return PromptPairs(tuple(positives), tuple(negatives), tuple(answers), tuple(foils))
