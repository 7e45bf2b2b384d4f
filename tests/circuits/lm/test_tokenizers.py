"""Tokenizers from GGUF metadata and from folders."""

import dataclasses
import json
import unicodedata
from pathlib import Path

import gguf
import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from circuits_jax.lm.files.gguf import smollm2_path
from circuits_jax.lm.tokenizers import load_tokenizer, prompt_ids
from circuits_jax.runs.errors import InputError
from tests.circuits import tiny

GOLDEN = Path(__file__).parents[2] / "goldens" / "circuits" / "smollm2_tokens.json"
NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["1 2", "Ġ 1", "Ġ a", "Ġa b", "a b", "Ġ Ġ"]
WORDS = [*(merge.replace(" ", "") for merge in MERGES), "Ġxyz"]
PIECES = {"▁": -1.0, "▁ab": -2.0, "ab": -3.0, "▁a": -4.0, "bc": -5.0, "abc": -6.0, "▁b": -7.0}
# Characters come last in a sentencepiece vocabulary and are no merges of anything.
CHARACTERS = dict.fromkeys("abc", -50.0)
# SmolLM2's vocabulary lacks some control characters and the first bytes of planes above 3.
ANY_TEXT = st.text(
    st.characters(
        max_codepoint=0x3FFFF, exclude_categories=["Cc", "Cs"], include_characters="\n\t"
    ),
    max_size=40,
)


def write(path, arch, entries):
    """A GGUF file with nothing but tokenizer metadata; None leaves an entry out."""
    writer = gguf.GGUFWriter(path, arch)
    for key, value in entries.items():
        name = f"tokenizer.ggml.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif value is not None:
            writer.add_array(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def byte_level(path, pre, **changes):
    tokens = [*BYTES, *WORDS, "<s>", "<think>"]
    entries = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": [NORMAL] * (len(tokens) - 2) + [CONTROL, USER],
        "merges": MERGES,
        "bos_token_id": len(tokens) - 2,
        "eos_token_id": len(tokens) - 2,
    }
    return load_tokenizer(write(path, "llama", {**entries, **changes}))


def sentencepiece(path, arch="llama", **changes):
    pieces = {**PIECES, **CHARACTERS}
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *fallback, *pieces]
    entries = {
        "model": "llama",
        "tokens": tokens,
        "scores": [0.0] * (3 + 256) + list(pieces.values()),
        "token_type": [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(pieces),
        "unknown_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return load_tokenizer(write(path, arch, {**entries, **changes}))


def pieces_of(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)


@pytest.fixture(scope="module")
def smollm2():
    """Where its package is absent tests fail, with how to install it, and are not skipped."""
    return load_tokenizer(smollm2_path())


def test_smollm2_gives_the_ids_of_llama_cpp(smollm2):
    for text, ids in json.loads(GOLDEN.read_text()):
        assert smollm2(text).input_ids == ids, text


def test_smollm2_special_tokens(smollm2):
    assert len(smollm2) == 49152
    assert (smollm2.bos_token_id, smollm2.eos_token_id, smollm2.pad_token_id) == (1, 2, 2)
    assert smollm2.convert_ids_to_tokens([1]) == ["<|im_start|>"]
    assert smollm2("<|im_start|>").input_ids == [1]
    assert smollm2.decode([1, 25653], skip_special_tokens=True) == "Mary"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=ANY_TEXT)
def test_smollm2_is_lossless(smollm2, text):
    assert smollm2.decode(smollm2(text).input_ids) == text


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["Ġ", "Ġab", "12", "2"]),
        ("smollm", ["Ġ", "Ġab", "1", "2", "2"]),
        ("llama-bpe", ["<s>", "Ġ", "Ġab", "12", "2"]),
        ("tekken", ["<s>", "Ġ", "Ġab", "1", "2", "2"]),
        ("qwen2", ["Ġ", "Ġab", "1", "2", "2"]),
    ],
)
def test_pre_tokenizers_cut_numbers_their_own_way(tmp_path, pre, pieces):
    assert pieces_of(byte_level(tmp_path / "t.gguf", pre), "  ab122") == pieces


def test_runs_of_spaces_before_a_digit(tmp_path):
    # Digits are cut off first in SmolLM's way, so that all spaces stay together.
    assert pieces_of(byte_level(tmp_path / "a.gguf", "smollm"), "a  1") == ["a", "ĠĠ", "1"]
    assert pieces_of(byte_level(tmp_path / "b.gguf", "gpt-2"), "a  1") == ["a", "Ġ", "Ġ1"]


def test_whole_words_of_the_vocabulary(tmp_path):
    assert pieces_of(byte_level(tmp_path / "a.gguf", "llama-bpe"), " xyz") == ["<s>", "Ġxyz"]
    assert pieces_of(byte_level(tmp_path / "b.gguf", "gpt-2"), " xyz") == ["Ġ", "x", "y", "z"]


@pytest.mark.parametrize(("pre", "form"), [("qwen2", "NFC"), ("olmo", "NFC"), ("gpt-2", None)])
def test_composed_characters(tmp_path, pre, form):
    tokenizer, text = byte_level(tmp_path / "t.gguf", pre), "e\u0301"
    expected = unicodedata.normalize(form, text) if form else text
    assert tokenizer.decode(tokenizer(text).input_ids) == expected


def test_special_and_user_tokens_stay_whole(tmp_path):
    tokenizer = byte_level(tmp_path / "t.gguf", "gpt-2")
    assert pieces_of(tokenizer, "ab<think>ab<s>") == ["ab", "<think>", "ab", "<s>"]
    ids = tokenizer("ab<think>ab<s>").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab<think>ab"


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe"])
@pytest.mark.parametrize("bos", [True, False])
def test_the_file_decides_on_start_and_end_tokens(tmp_path, pre, bos):
    changes = {"add_bos_token": bos, "add_eos_token": not bos}
    tokenizer = byte_level(tmp_path / "t.gguf", pre, **changes)
    assert pieces_of(tokenizer, "ab") == (["<s>", "ab"] if bos else ["ab", "<s>"])
    assert tokenizer("ab", add_special_tokens=False).input_ids == [len(BYTES) + WORDS.index("ab")]


@pytest.mark.parametrize(
    ("frame", "text", "wanted"),
    [
        ("$A <eos>", "a b", "a b"),
        ("<bos> $A <eos>", "a b", "<bos> a b"),
        ("<bos> $A <eos>", "<bos> a b", "<bos> a b"),
        ("<bos> $A", "<bos>", "<bos>"),
        ("<bos> $A <eos>", "<bos> <sep> a", "<bos> <sep> a"),
        ("<bos> $A <eos>", "a <eos> b <eos>", "<bos> a <eos> b <eos>"),  # the user's own
        ("<bos> $A <eos>", "<eos>", "<bos> <eos>"),
        ("<bos> $A", "a <bos> b", "<bos> a <bos> b"),
        ("<bos> <sep> $A <eos>", "a", "<bos> <sep> a"),
        ("<bos> <sep> $A <eos>", "<bos> <sep> a", "<bos> <sep> a"),
        ("<bos> <sep> $A <eos>", "<bos> a", "<bos> <sep> a"),
        ("<bos> <sep> $A <eos>", "<sep> a", "<bos> <sep> a"),
        ("$A", "<bos> a", "<bos> a"),
        ("<bos> $A <eos>", "", "<bos>"),
        ("$A", "", ""),
    ],
)
def test_prompts_begin_once_and_end_with_their_own_last_token(frame, text, wanted):
    tokens = ["<unk>", "<bos>", "<eos>", "<sep>", "a", "b"]
    inner = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(tokens[:4])
    special = [(token, inner.token_to_id(token)) for token in tokens[1:4]]
    inner.post_processor = processors.TemplateProcessing(frame, special_tokens=special)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>"
    )
    assert prompt_ids(tokenizer, text) == [tokens.index(token) for token in wanted.split()]


@dataclasses.dataclass(frozen=True)
class Framed:
    """Puts "when" before and "to" behind every text."""

    inner: tiny.WordTokenizer

    def __call__(self, text, *, add_special_tokens=True):
        texts = ["when"] * add_special_tokens + [text] + ["to"] * add_special_tokens
        return self.inner(" ".join(texts))


def test_logits_are_those_after_the_prompts_own_last_token():
    plain = tiny.model()
    framed = dataclasses.replace(plain, tokenizer=Framed(plain.tokenizer))
    wanted = plain.logits(["when Ann and Bob", "when Cid", "when Cid to"])
    for prompts in (["Ann and Bob", "Cid", "Cid to"], ["when Ann and Bob", "when Cid", "Cid to"]):
        np.testing.assert_array_equal(framed.logits(prompts), wanted)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("eos", [False, True])
def test_a_gguf_file_that_frames_prompts(tmp_path, bos, eos):
    """The start token once, the end token never; the rest as the text alone."""
    tokenizer = sentencepiece(tmp_path / "t.gguf", add_bos_token=bos, add_eos_token=eos)
    alone = tokenizer("ab c", add_special_tokens=False).input_ids
    assert tokenizer("ab c").input_ids == [1] * bos + alone + [2] * eos
    assert prompt_ids(tokenizer, "ab c") == [1] * bos + alone
    written = tokenizer("<s>ab c", add_special_tokens=False).input_ids
    assert written.count(1) == 1
    assert prompt_ids(tokenizer, "<s>ab c") == written


def best_first(text, scores):
    """Sentencepiece's BPE: join the neighbours whose union scores best, leftmost first."""
    pieces = list(text)
    while True:
        joins = [
            (-scores[pieces[i] + pieces[i + 1]], i)
            for i in range(len(pieces) - 1)
            if pieces[i] + pieces[i + 1] in scores
        ]
        if not joins:
            return pieces
        _, i = min(joins)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]


@pytest.fixture(scope="module")
def spm(tmp_path_factory):
    return sentencepiece(tmp_path_factory.mktemp("spm") / "t.gguf")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=st.text("abc ", min_size=1, max_size=20).filter(lambda text: text[0] != " "))
def test_sentencepiece_joins_best_first(spm, text):
    scores = {**PIECES, **CHARACTERS}
    expected = best_first("▁" + text.replace(" ", "▁"), scores)
    assert pieces_of(spm, text) == ["<s>", *expected]
    assert spm.decode(spm(text).input_ids, skip_special_tokens=True) == text


def test_sentencepiece_spells_what_it_lacks_in_bytes(spm):
    assert pieces_of(spm, "é") == ["<s>", "▁", "<0xC3>", "<0xA9>"]
    assert spm.decode(spm("aé").input_ids, skip_special_tokens=True) == "aé"


def test_sentencepiece_without_the_leading_space(tmp_path):
    tokenizer = sentencepiece(tmp_path / "t.gguf", add_space_prefix=False, add_bos_token=False)
    assert pieces_of(tokenizer, "ab ab") == ["ab", "▁ab"]


def test_gemma_spells_runs_of_spaces_as_spaces(tmp_path):
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", "a", "b", "  ", "▁a", "ab"]
    changes = {
        "tokens": tokens,
        "scores": [-1000.0] * len(tokens),
        "token_type": [CONTROL] * 3 + [UNKNOWN] + [NORMAL] * 3 + [USER] + [NORMAL] * 2,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "unknown_token_id": 3,
        "padding_token_id": 0,
    }
    tokenizer = sentencepiece(tmp_path / "t.gguf", "gemma2", **changes)
    assert tokenizer("ab  ab").input_ids == [2, 9, 7, 9]
    assert tokenizer("a ab").input_ids == [2, 5, 8, 6]  # "▁a" comes before "ab" and joins first
    assert tokenizer.decode([9, 7, 9]) == "ab  ab"


def test_folders_read_back_what_was_saved(tmp_path, smollm2):
    smollm2.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    for text, ids in json.loads(GOLDEN.read_text()):
        assert again(text).input_ids == ids


def test_sources_without_a_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(InputError, match=r"has no tokenizer; tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="No tokenizer could be loaded") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be opened"):
        load_tokenizer(tmp_path / "absent.gguf")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "klingon"}, "'klingon'.*known are gpt-2, smollm"),
        ({"pre": None}, "known are gpt-2"),
        ({"model": "bert"}, "'bert'; supported are gpt2, llama"),
        ({"model": None}, "kind None"),
        ({"model": ["gpt2"]}, r"kind \['gpt2'\]"),
        ({"token_type": 3}, "inconsistent vocabulary"),
        ({"tokens": None}, r"no list 'tokenizer\.ggml\.tokens'"),
        ({"merges": None}, r"no list 'tokenizer\.ggml\.merges'"),
        ({"merges": ["a zzz"]}, "inconsistent vocabulary"),
        ({"merges": ["a"]}, "inconsistent vocabulary"),
        ({"bos_token_id": 10**6}, "'tokenizer.ggml.bos_token_id' is 1000000"),
    ],
)
def test_metadata_that_makes_no_tokenizer(tmp_path, changes, message):
    entries = {"pre": "gpt-2", **changes}
    with pytest.raises(InputError, match=message):
        byte_level(tmp_path / "t.gguf", **entries)


def test_scores_that_are_too_few(tmp_path):
    with pytest.raises(InputError, match="inconsistent vocabulary"):
        sentencepiece(tmp_path / "t.gguf", scores=[0.0])
