"""Tokenizers for every source of weights, as `transformers` presents them, without torch.

A folder or a hub id has files of its own for this. A GGUF file has the vocabulary in its metadata
and only a name for the rest: byte-level BPE ("gpt2") with a named way of cutting text into words,
or BPE on sentencepiece's pieces ("llama"), whose merges follow from the vocabulary.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuits_jax.lm.files.checkpoints import hub_folder
from circuits_jax.lm.files.gguf_file import open_gguf
from circuits_jax.runs.errors import InputError

if TYPE_CHECKING:
    import tokenizers
    import transformers

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_CONTROL, _USER_DEFINED = 3, 4  # kinds of token in tokenizer.ggml.token_type
_SPACE = "\u2581"  # how sentencepiece writes a space
_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_WORDS = _LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclasses.dataclass(frozen=True)
class _Words:
    """How one kind of byte-level vocabulary cuts text into the words that are merged within.

    Attributes:
        splits: patterns applied in turn; a match becomes a word, and so does what lies between.
        nfc: text is put into Unicode's normal form C first.
        whole_words: a word that is in the vocabulary is taken whole, whatever the merges.
        add_bos: the first token of a text is the start token, unless the file says otherwise.
    """

    splits: tuple[str, ...]
    nfc: bool = False
    whole_words: bool = False
    add_bos: bool = False


_GPT2 = _Words((_GPT2_WORDS,))
_LLAMA3 = _Words((_LLAMA3_WORDS,), whole_words=True, add_bos=True)
_QWEN2 = _Words((_QWEN2_WORDS,), nfc=True)
# By tokenizer.ggml.pre, the names that conversion to GGUF gives them.
_WORDS = {
    "gpt-2": _GPT2,
    "smollm": _Words((r"\p{N}", _GPT2_WORDS)),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "tekken": _Words((_TEKKEN_WORDS,), whole_words=True, add_bos=True),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "olmo": dataclasses.replace(_GPT2, nfc=True),
}


def load_tokenizer(source: str | Path) -> "transformers.PreTrainedTokenizerFast":
    """The tokenizer of a model.

    Args:
        source: a GGUF file, a folder with tokenizer files, or a hub id.

    Returns:
        A tokenizer of `transformers`. `decode(encode(text))` is the text for byte-level
        vocabularies without normalisation.

    Raises:
        InputError: no such source, or no tokenizer in it that can be built.
    """
    if Path(source).is_file() or str(source).endswith(".gguf"):
        file = open_gguf(source)
        return _gguf_tokenizer(file.path, file.metadata)
    folder = Path(source) if Path(source).is_dir() else hub_folder(str(source))
    # transformers makes an empty tokenizer, without a word, where it finds no files.
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise InputError(f"{source} has no tokenizer; {' or '.join(_TOKENIZER_FILES)} is needed.")
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(folder)
    # Missing, damaged and unreachable files raise errors of several packages.
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0].rstrip(".") or type(error).__name__
        raise InputError(
            f"No tokenizer could be loaded from '{source}' ({reason}); its tokenizer files must be "
            "whole and of a kind that transformers knows."
        ) from error


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    """The token ids of a text as a model is to go on from it.

    The tokens that the tokenizer puts in front stand there once, also where the text begins with
    them, as one that a chat template wrote does. What it puts behind is left out: a prompt ends
    with its own last token. The rest are the ids of the text alone, special tokens in it included,
    as `tokenizer(text, add_special_tokens=False)` gives them.
    """
    own = list(tokenizer(text, add_special_tokens=False).input_ids)
    whole = list(tokenizer(text).input_ids)
    starts = [i for i in range(len(whole)) if whole[i : i + len(own)] == own]
    if not own or not starts:  # nothing tells what stands in front from what stands behind
        return whole[:1] if not own else whole
    front = whole[: starts[0]]
    for token in front:
        own = own[1:] if own[:1] == [token] else own
    return front + own


def _gguf_tokenizer(
    path: Path, metadata: Mapping[str, Any]
) -> "transformers.PreTrainedTokenizerFast":
    """Builds the tokenizer that the metadata of a GGUF file describes."""
    import transformers

    settings = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    kind = settings.get("model")
    if not isinstance(kind, str) or kind not in builders:
        raise InputError(
            f"{path} has a tokenizer of kind {kind!r:.40}; supported are {', '.join(builders)}."
        )
    for name in ("tokens", "scores" if kind == "llama" else "merges"):
        if not isinstance(settings.get(name), list):
            raise InputError(f"{path} has no list 'tokenizer.ggml.{name}' in its metadata.")
    specials = _special_tokens(path, settings)
    architecture = metadata.get("general.architecture", "")
    try:
        backend, add_bos = builders[kind](path, settings, str(architecture))
        _add_whole_tokens(backend, settings)
        _frame(backend, settings, specials, add_bos)
    except InputError:
        raise
    except Exception as error:  # the tokenizers package raises nothing narrower
        raise InputError(f"{path} has an inconsistent vocabulary: {error}.") from None
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        chat_template=metadata.get("tokenizer.chat_template"),
        **specials,
    )


def _byte_level(
    path: Path, settings: Mapping[str, Any], architecture: str
) -> tuple["tokenizers.Tokenizer", bool]:
    """Byte-level BPE: every byte has a letter, merges stay within words."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    name = settings.get("pre")
    if not isinstance(name, str) or name not in _WORDS:
        raise InputError(
            f"{path} names the pre-tokenizer {name!r:.40} (tokenizer.ggml.pre); known are "
            f"{', '.join(_WORDS)}."
        )
    words = _WORDS[name]
    merges = [tuple(merge.split(" ", 1)) for merge in settings["merges"]]
    backend = Tokenizer(
        models.BPE(_vocabulary(settings["tokens"]), merges, ignore_merges=words.whole_words)
    )
    if words.nfc:
        backend.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(split), "isolated") for split in words.splits]
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, letters])
    backend.decoder = decoders.ByteLevel()
    return backend, words.add_bos


def _sentencepiece(
    path: Path, settings: Mapping[str, Any], architecture: str
) -> tuple["tokenizers.Tokenizer", bool]:
    """BPE on sentencepiece's pieces, with bytes for what the vocabulary lacks.

    Llama's text starts with a space that decoding strips; Gemma's does not, and its file spells
    runs of spaces as spaces.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    gemma = architecture.startswith("gemma")
    tokens, scores = settings["tokens"], settings["scores"]
    if gemma:
        tokens = [token if token.strip(" ") else _SPACE * len(token) for token in tokens]
        # Gemma's scores do not follow the order of its merges, its numbering does.
        scores = [-float(number) for number in range(len(tokens))]
    vocabulary = _vocabulary(tokens)
    unknown = tokens[settings["unknown_token_id"]] if "unknown_token_id" in settings else None
    merges = _implied_merges(vocabulary, dict(zip(tokens, scores, strict=True)))
    backend = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if gemma:
        backend.normalizer = normalizers.Replace(" ", _SPACE)
        backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    elif settings.get("add_space_prefix", True):
        backend.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, "first", split=False)
        steps.append(decoders.Strip(" ", left=1))
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, "never", split=False)
    backend.decoder = decoders.Sequence(steps)
    return backend, True


def _vocabulary(tokens: list[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def _implied_merges(
    vocabulary: Mapping[str, int], scores: Mapping[str, float]
) -> list[tuple[str, str]]:
    """Every way to join two pieces into a third, the best-scored result first.

    Ties are broken as transformers does when it converts sentencepiece models: the longer left
    piece first.
    """
    cuts = (
        (score, token[:cut], token[cut:])
        for token, score in scores.items()
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    )
    ranked = sorted(cuts, key=lambda cut: (-cut[0], -len(cut[1]), -len(cut[2])))
    return [(left, right) for _, left, right in ranked]


def _special_tokens(path: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """The start, end, unknown and padding tokens that the file numbers, as text."""
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    numbers = {name: settings.get(f"{key}_token_id") for name, key in names.items()}
    size = len(settings["tokens"])
    for name, number in numbers.items():
        if number is not None and not (isinstance(number, int) and 0 <= number < size):
            raise InputError(
                f"{path}: 'tokenizer.ggml.{names[name]}_token_id' is {number!r}, outside the "
                f"vocabulary of {size}."
            )
    return {
        f"{name}_token": settings["tokens"][number]
        for name, number in numbers.items()
        if number is not None
    }


def _add_whole_tokens(backend: "tokenizers.Tokenizer", settings: Mapping[str, Any]) -> None:
    """Marks the tokens that are found whole in the text before it is cut into words."""
    from tokenizers import AddedToken

    kinds = settings.get("token_type") or []
    for wanted, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        found = [
            AddedToken(token, normalized=False, special=special)
            for token, kind in zip(settings["tokens"], kinds, strict=False)
            if kind == wanted and backend.token_to_id(token) is not None
        ]
        backend.add_tokens(found)


def _frame(
    backend: "tokenizers.Tokenizer",
    settings: Mapping[str, Any],
    specials: Mapping[str, str],
    add_bos: bool,
) -> None:
    """Puts the start and the end token around a text where the file asks for them."""
    from tokenizers import processors

    asked = {
        "bos_token": settings.get("add_bos_token", add_bos),
        "eos_token": settings.get("add_eos_token", False),
    }
    used = [specials[name] if asked[name] and name in specials else None for name in asked]
    template = [used[0], "$A", used[1]]
    backend.post_processor = processors.TemplateProcessing(
        single=[part for part in template if part],
        special_tokens=[(token, backend.token_to_id(token)) for token in used if token],
    )
