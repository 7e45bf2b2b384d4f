"""Prompts as a chat model reads them: each is a user's turn, and what it answers begins the next.

The model's own template puts its special tokens around the prompt; those that the tokenizer puts in
front of any text stand there once (`lm/tokenizers.prompt_ids`). The first word of a turn has no
space before it, so answers lose theirs, and may then be several tokens.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from circuits_jax.runs.errors import InputError
from circuits_jax.tasks.base import Answer, PromptPairs, Task, tokens_of
from circuits_jax.tasks.tokens import Tokenizer, following_tokens


def turn(tokenizer: Tokenizer, prompt: str) -> str:
    """The prompt as a user's turn, up to where the model's begins.

    Raises:
        InputError: the tokenizer has no chat template, or one that takes no such turn.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "task.chat is True, and the model's tokenizer has no chat template; allowed is False, "
            "or a model that was made for chat"
        )
    messages = [{"role": "user", "content": prompt}]
    in_template: Any = tokenizer  # the one kind of tokenizer that has a template
    try:
        return in_template.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # of the template's own code
        said = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise InputError(f"the model's chat template takes no user's turn ({said})") from error


def in_chat(tokenizer: Tokenizer, task: Task) -> Task:
    """A task whose prompts are turns, with the same answers and foils.

    Raises:
        InputError: as `turn`, or an answer that no tokens say after the template.
    """
    parts: Mapping[str, Any] = {
        name: _turns(tokenizer, getattr(task, name)) for name in ("learn", "held_out")
    }
    return dataclasses.replace(task, **parts, options={**task.options, "chat": True})


def _turns(tokenizer: Tokenizer, pairs: PromptPairs) -> PromptPairs:
    positives, negatives = (
        tuple(turn(tokenizer, prompt) for prompt in prompts)
        for prompts in (pairs.positives, pairs.negatives)
    )

    def of_turn(prompt: str, answer: Answer) -> Answer:
        text = tokenizer.decode(tokens_of(answer)).lstrip(" ")
        found = following_tokens(tokenizer, prompt, text)
        if found is None:
            raise InputError(f"the tokenizer has no tokens for {text!r} after its chat template")
        return found if len(found) > 1 else found[0]

    answers, foils = (
        tuple(
            tuple(dict.fromkeys(of_turn(prompt, one) for one in row))
            for prompt, row in zip(positives, side, strict=True)
        )
        for side in (pairs.answers, pairs.foils)
    )
    return PromptPairs(positives, negatives, answers, foils)
