"""Tasks of templates: each prompt once, answers in balance, and what a pair differs in."""

from collections import Counter

import pytest

from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import make_task
from circuits_jax.tasks.templates import SPECS
from circuits_jax.tasks.tokens import token_ids


def spread(counts):
    return max(counts.values()) - min(counts.values())


@pytest.fixture(scope="module", params=SPECS)
def task(request, smollm2):
    return make_task(request.param, smollm2, n=6, n_held_out=8, seed=3)


def test_no_prompt_comes_twice(task):
    prompts = [
        text
        for pairs in (task.learn, task.held_out)
        for text in (*pairs.positives, *pairs.negatives)
    ]
    assert len(prompts) == 28
    assert len(set(prompts)) == 28


def test_answers_foils_and_templates_are_in_balance(task, smollm2):
    known = len({token for row in (*task.learn.answers, *task.held_out.answers) for token in row})
    for pairs in (task.learn, task.held_out):
        assert all(
            len(a) == len(f) == 1 and a != f
            for a, f in zip(pairs.answers, pairs.foils, strict=True)
        )
        for rows in (pairs.answers, pairs.foils):
            counts = Counter(token for row in rows for token in row)
            assert spread(counts) <= 2
            assert len(counts) >= min(known, len(pairs)) / 2
        templates = SPECS[task.name].templates
        starts = Counter(
            max((t for t in templates if text.startswith(t.split("{0}")[0])), key=len)
            for text in pairs.positives
        )
        assert sum(starts.values()) == len(pairs)


def test_a_pair_differs_in_its_filling_alone(task, smollm2):
    """The two prompts begin and end alike, and most have equal numbers of tokens."""
    rows = list(zip(task.held_out.positives, task.held_out.negatives, strict=True))
    alike = [len(token_ids(smollm2, a)) == len(token_ids(smollm2, b)) for a, b in rows]
    assert sum(alike) > 0.6 * len(alike)
    if task.name != "agreement":  # of which a template ends with the word itself
        assert all(a.split()[-1] == b.split()[-1] for a, b in rows if task.name != "arithmetic")
    assert all(a.split()[0] == b.split()[0] for a, b in rows)


def test_the_answer_is_the_filling_s(task, smollm2):
    """Whatever the words are: the answer of the negative is the pair's foil."""
    of = {
        template.format(*filling): answer
        for bag in SPECS[task.name].bags()
        for template in SPECS[task.name].templates
        for answer, fillings in bag.items()
        for filling in fillings
    }
    for pairs in (task.learn, task.held_out):
        rows = zip(pairs.positives, pairs.negatives, pairs.answers, pairs.foils, strict=True)
        for positive, negative, answer, foil in rows:
            assert smollm2.decode(answer) == of[positive]
            assert smollm2.decode(foil) == of[negative]


@pytest.mark.parametrize("name", ["capitals", "arithmetic"])
def test_what_learns_does_not_depend_on_what_is_held_out(name, smollm2):
    few, many = (make_task(name, smollm2, n=4, n_held_out=m, seed=1) for m in (1, 12))
    assert few.learn == many.learn
    assert few.learn != make_task(name, smollm2, n=4, n_held_out=1, seed=2).learn


def test_all_prompts_can_be_had_and_no_more(smollm2):
    with pytest.raises(InputError, match=r"= 1001 distinct prompts .* only \d+ exist") as refused:
        make_task("capitals", smollm2, n=1, n_held_out=1000)
    exist = int(str(refused.value).split("but only ")[1].split()[0])
    assert exist > 30
    assert len(make_task("capitals", smollm2, n=1, n_held_out=exist - 1).held_out) == exist - 1


def test_a_tokenizer_without_the_words_is_refused(letters_only):
    with pytest.raises(InputError, match="'capitals' has 0 answers that are one token"):
        make_task("capitals", letters_only, n=1, n_held_out=1)
    assert len(make_task("arithmetic", letters_only, n=2, n_held_out=2).learn) == 2


def test_the_right_answers_of_choices_and_sums(smollm2):
    """Read off the text, without the tables that made it."""
    for text, answer in zip(*_first_split("multiple_choice", smollm2), strict=True):
        color = text.split(" is ")[1].split(".")[0]
        assert f"{answer.strip()}. {color}\n" in text
    for text, answer in zip(*_first_split("arithmetic", smollm2), strict=True):
        a, b = text.split("\n")[-1].rstrip("=").split("+")
        assert int(a) + int(b) == int(answer)
        assert f"\n{a}+{b}=" not in text[: text.rindex("\n")]
    for text, answer in zip(*_first_split("colored_objects", smollm2), strict=True):
        thing = text.removesuffix(" is").split()[-1]
        assert f"{answer} {thing}" in text


def _first_split(name, tokenizer):
    pairs = make_task(name, tokenizer, n=10, n_held_out=1, seed=0).learn
    return pairs.positives, [tokenizer.decode(answer) for answer in pairs.answers]
