"""Prompts in the model's chat template: special tokens once, and answers that begin a turn."""

import json

import pytest

from circuits_jax.lm.tokenizers import prompt_ids
from circuits_jax.runs.errors import InputError
from circuits_jax.tasks import make_task, tokens_of


def lines(path, **changes):
    row = {"positive": "What is the capital of {}?", "negative": "What is it?"}
    row |= {"answer": " Paris", "foil": "Rome"} | changes
    rows = [row | {"positive": row["positive"].format(x)} for x in ("France", "Gaul", "Corsica")]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_prompts_are_turns_and_answers_begin_the_next(tmp_path, smollm2):
    path = lines(tmp_path / "t.jsonl")
    task = make_task("custom", smollm2, n=1, path=path, chat=True, answer_tokens="all")
    assert task.options["chat"] is True
    (positive,) = task.learn.positives
    content = make_task("custom", smollm2, n=1, path=path, answer_tokens="all").learn.positives[0]
    wanted = smollm2.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    assert positive == wanted
    said = [smollm2.decode(tokens_of(one[0])) for one in (*task.learn.answers, *task.learn.foils)]
    assert said == ["Paris", "Rome"]


def test_what_stands_in_front_stands_there_once(smollm2):
    """Both the template and the tokenizer may write it."""
    import copy

    begins = copy.deepcopy(smollm2)
    begins.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}"
    )
    from tokenizers import processors

    start = begins.convert_tokens_to_ids(begins.bos_token)
    begins.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[begins.bos_token, "$A"], special_tokens=[(begins.bos_token, start)]
    )
    task = make_task("capitals", begins, n=2, n_held_out=2, chat=True)
    for prompt in (*task.learn.positives, *task.held_out.negatives):
        ids = prompt_ids(begins, prompt)
        assert prompt.startswith(begins.bos_token)
        assert ids.count(start) == 1
        assert ids[0] == start
        assert prompt.endswith("]>")


def test_every_task_can_be_a_chat(smollm2):
    plain, chat = (make_task("ioi", smollm2, n=3, n_held_out=2, chat=c) for c in (False, True))
    for before, after in zip(plain.learn.positives, chat.learn.positives, strict=True):
        assert before in after
    for before, after in zip(plain.learn.answers, chat.learn.answers, strict=True):
        texts = [smollm2.decode(tokens_of(one)) for one in (*before, *after)]
        assert texts[0] == f" {texts[1]}"


def test_a_tokenizer_without_a_template_is_refused(split_digits, tmp_path):
    for options in ({"name": "ioi"}, {"name": "custom", "path": lines(tmp_path / "t.jsonl")}):
        with pytest.raises(InputError, match="has no chat template; allowed is False"):
            make_task(tokenizer=split_digits, n=1, chat=True, **options)


def test_a_template_that_fails_is_a_sentence(smollm2):
    import copy

    broken = copy.deepcopy(smollm2)
    broken.chat_template = "{{ raise_exception('no users here') }}"
    with pytest.raises(InputError, match=r"takes no user's turn \(no users here"):
        make_task("ioi", broken, n=1, chat=True)
