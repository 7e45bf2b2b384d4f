import re
from collections import Counter

import pytest

from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import make_task
from circuits_jax.tasks.tokens import changed_positions, token_ids

PROMPT = re.compile(r"The (\w+) lasted from the year (\d\d)(..) to the year (\d\d)")


def parts(prompt):
    noun, century, yy, end = PROMPT.fullmatch(prompt).groups()
    return noun, int(century), yy, int(end)


def texts(tokenizer, ids):
    return [tokenizer.decode([i]) for i in ids]


def test_two_digit_answers_are_all_years_above(two_digits):
    task = make_task("greater_than", two_digits, n=10, n_held_out=87, seed=5)
    assert task.metric == "prob_diff"
    seen = []
    for pairs in (task.learn, task.held_out):
        for i in range(len(pairs)):
            _, century, yy, end = parts(pairs.positives[i])
            seen.append(int(yy))
            assert century == end
            expected = [f"{other:02d}" for other in range(100)]
            assert texts(two_digits, pairs.answers[i]) == expected[int(yy) + 1 :]
            assert texts(two_digits, pairs.foils[i]) == expected[: int(yy) + 1]
    assert sorted(seen) == list(range(2, 99))  # one round: every YY once


def test_split_digit_answers_leave_the_tie_out(split_digits):
    task = make_task("greater_than", split_digits, n=20, n_held_out=60, seed=5)
    seen = []
    for pairs in (task.learn, task.held_out):
        for i in range(len(pairs)):
            _, _, yy, _ = parts(pairs.positives[i])
            seen.append(int(yy))
            assert texts(split_digits, pairs.answers[i]) == list("0123456789"[int(yy[0]) + 1 :])
            assert texts(split_digits, pairs.foils[i]) == list("0123456789"[: int(yy[0])])
    assert sorted(seen) == list(range(10, 90))


def test_centuries_nouns_and_years_in_balance(tokenizer):
    task = make_task("greater_than", tokenizer, n=24, n_held_out=240, seed=6)
    for pairs in (task.learn, task.held_out):
        found = [parts(prompt) for prompt in pairs.positives]
        for column, spread, kinds in ((1, 1, 8), (2, 1, None), (0, 2, None)):
            counts = Counter(row[column] for row in found)
            assert max(counts.values()) - min(counts.values()) <= spread
            assert kinds in (None, len(counts))


def test_all_pairs_of_year_and_noun_can_be_had(years_and_one_noun):
    task = make_task("greater_than", years_and_one_noun, n=1, n_held_out=79)
    assert len({parts(p)[:3] for p in task.learn.positives + task.held_out.positives}) == 80
    with pytest.raises(InputError, match=r"only 80 exist \(one for each of 80 .* and 1 nouns\)"):
        make_task("greater_than", years_and_one_noun, n=1, n_held_out=80)


def test_range_negatives_put_01_for_yy(tokenizer):
    pairs = make_task("greater_than", tokenizer, n=12).learn
    for positive, negative in zip(pairs.positives, pairs.negatives, strict=True):
        noun, century, _, end = parts(positive)
        assert parts(negative) == (noun, century, "01", end)


def test_year_negatives_end_a_century_early(tokenizer):
    pairs = make_task("greater_than", tokenizer, n=12, negatives="year").learn
    for positive, negative in zip(pairs.positives, pairs.negatives, strict=True):
        assert parts(negative) == (*parts(positive)[:3], parts(positive)[3] - 1)
        changed = changed_positions(tokenizer, positive, negative)
        assert changed == (len(token_ids(tokenizer, positive)) - 1,)


def test_random_negatives_put_letters_for_yy(tokenizer):
    pairs = make_task("greater_than", tokenizer, n=12, negatives="random").learn
    letters = set()
    for positive, negative in zip(pairs.positives, pairs.negatives, strict=True):
        noun, century, yy, end = parts(negative)
        assert re.fullmatch("[A-Z]{2}", yy)
        assert (noun, century, end) == (parts(positive)[0], *parts(positive)[1::2])
        letters.add(yy)
    assert len(letters) > 1


def test_copy_negatives_are_some_later_year(tokenizer):
    pairs = make_task("greater_than", tokenizer, n=12, negatives="copy").learn
    for positive, negative in zip(pairs.positives, pairs.negatives, strict=True):
        noun, century, yy, end = parts(positive)
        assert parts(negative) == (noun, century, f"{int(yy) + 1:02d}", end)


def test_unrelated_negatives_name_the_noun_and_no_year(tokenizer):
    pairs = make_task("greater_than", tokenizer, n=12, negatives="unrelated").learn
    for positive, negative in zip(pairs.positives, pairs.negatives, strict=True):
        assert parts(positive)[0] in negative.split()
        assert not re.search(r"\d|year", negative)


def test_kinds_of_negatives_share_their_positives(split_digits):
    kinds = ("range", "year", "random", "unrelated", "copy")
    tasks = [make_task("greater_than", split_digits, negatives=kind) for kind in kinds]
    assert len({task.learn.positives for task in tasks}) == 1
    assert len({task.learn.negatives for task in tasks}) == len(kinds)


def test_tokenizer_of_three_digit_groups(three_digits):
    with pytest.raises(InputError, match=r"digit by digit; this one writes 'the year 1732' as"):
        make_task("greater_than", three_digits)
