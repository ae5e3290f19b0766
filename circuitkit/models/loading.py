"""Loading transformers models and tokenizers, with one-line errors."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from circuitkit.config import registry
from circuitkit.errors import CircuitKitError, UsageError, quote
from circuitkit.models.brought import DTYPES, describe_dtypes, first_line, quiet
from circuitkit.models.families.base import Family
from circuitkit.models.fetch import how_to_get, locate
from circuitkit.models.gguf_file import GGUFFile, describe_place, is_gguf
from circuitkit.models.tracr import TracrConfig as TracrConfig  # registers the class with transformers

_RECURRENT = ("mamba", "ssm_", "state_size", "time_step", "lru_", "linear_conv", "conv_L_cache", "rescale_every")
"""Settings that only recurrent models and their hybrids have."""


def load_pretrained(
    name: str | Path, dtype: torch.dtype | str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Load a causal language model, and its tokenizer if it has one.

    Args:
        name: of a packaged (`"toy"`) or fetched model, a folder, a GGUF file, or a name on the Hugging Face hub.
        dtype: of the weights; a `torch.dtype` or its name.

    Raises:
        UsageError: there is no such model, or its architecture is not supported.
        CircuitKitError: it cannot be read.
    """
    source = locate(str(name))
    wanted = parse_dtype(dtype)
    if os.path.isdir(source) and not (Path(source) / "config.json").exists():  # noqa: PTH112  no error for long names
        raise UsageError(
            f"The folder {str(name)!r} has no config.json, and so no model.",
            "Give one that `save_pretrained` has written; `circuitkit list models` shows other choices.",
        )
    with quiet():
        file = GGUFFile(Path(source)) if is_gguf(source) else None
        place = describe_place(source)
        try:
            config = AutoConfig.from_pretrained(**place, trust_remote_code=False)
        except (OSError, ValueError) as error:
            if file is not None:
                raise _unreadable(name, error, "Load the model from its Hugging Face folder or name.") from error
            raise UsageError(
                f"There is no model {str(name)!r}: {first_line(error)}",
                how_to_get(str(name)),
            ) from error
        find_family(config)
        if "/" in str(getattr(config, "_attn_implementation", None)):  # transformers would import it from the hub
            raise UsageError(
                f"The config of {str(name)!r} names code on the hub: {quote(config._attn_implementation)}.",
                "Remove `attn_implementation` from its config.json.",
            )
        if file is not None:
            file.complete_config(config)
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                **place,
                config=config,
                dtype=wanted,
                trust_remote_code=False,
                weights_only=True,  # of `.bin` files: tensors and plain values, no other pickles
                ignore_mismatched_sizes=True,  # so that they are reported
                output_loading_info=True,
                **_attention_options(config),
                **({} if file is None else file.options),
            )
        except Exception as error:  # whatever safetensors, the hub or transformers raise for a damaged folder
            raise _unreadable(name, error, "Download it again.") from error
        model, found = loaded
        _check_complete(str(name), found)
        if file is not None:
            file.complete_model(model, find_family(config)(model))
        return model, load_tokenizer(source)


def _attention_options(config: PreTrainedConfig) -> dict[str, str]:
    """Return the options for a model that caps the scores of attention: transformers < 5.21 ignores the cap in SDPA."""
    return {"attn_implementation": "eager"} if getattr(config, "attn_logit_softcapping", None) else {}


def load_tokenizer(source: str, local_only: bool = False) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer of a folder, a GGUF file or a name on the hub (`local_only`: in its cache); None: no such."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            **describe_place(source), trust_remote_code=False, local_files_only=local_only
        )
    except Exception as error:  # many models have no tokenizer, and transformers has no single error for that
        if (Path(source) / "tokenizer.json").exists():
            problem = f"The tokenizer of {source!r} cannot be read: {first_line(error)}."
            raise CircuitKitError(problem, "Download it again, or remove its files to use token ids.") from error
        return None
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        return None  # transformers makes an empty one, of the model's type, for a folder without a tokenizer's files
    return tokenizer


def find_family(config: PreTrainedConfig) -> type[Family]:
    """Return the family registered for the `model_type` of a transformers config.

    Raises:
        UsageError: there is none.
    """
    known = registry.names("families")
    if config.model_type in known:
        found = registry.load("families", config.model_type)
        if not (isinstance(found, type) and issubclass(found, Family)):
            path = registry.class_path("families", config.model_type)
            raise UsageError(
                f"{path}, registered for {config.model_type!r} models, is no subclass of circuitkit.models.Family.",
                "Make it one, or remove its entry point.",
            )
        return found
    kind = _describe_kind(config)
    if kind is None:
        raise UsageError(
            f"There is no supported architecture {config.model_type!r}.",
            f"Known: {', '.join(known)}. A class of your own adds one: see `Family`.",
        )
    raise UsageError(
        f"The architecture {config.model_type!r} is {kind}, which circuitkit cannot represent.",
        f"Choose a decoder whose layers are attention and one dense MLP: {', '.join(known)}.",
    )


def _describe_kind(config: PreTrainedConfig) -> str | None:
    """Tell which kind of architecture that no family represents this is, from its settings; None: another."""
    settings = {name: value for name, value in config.to_dict().items() if not name.startswith("_")}
    if config.is_encoder_decoder:
        return "an encoder-decoder"
    if any("expert" in name and value for name, value in settings.items()):
        return "a mixture of experts"
    if any(name.startswith(_RECURRENT) for name in settings):
        return "a state-space or other recurrent model"
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "an encoder"
    if settings.keys() & {"text_config", "vision_config", "audio_config"}:
        return "a model of more than text"
    return None


def _check_complete(name: str, found: Mapping[str, Any]) -> None:
    """Refuse a checkpoint without all weights: transformers would make random ones. Tied weights are not missing."""
    mismatched = sorted(str(one[0] if isinstance(one, tuple) else one) for one in found["mismatched_keys"])
    missing = sorted(set(found["missing_keys"]) - set(mismatched))
    for keys, what in ((missing, "lacks weights"), (mismatched, "has weights of another shape than its config says")):
        if keys:
            raise CircuitKitError(
                f"The model {name!r} {what}: {keys[0]!r}" + (f" and {len(keys) - 1} more." if keys[1:] else "."),
                "Download it again, or check that its config.json belongs to it.",
            )


def parse_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return a dtype that a model can have, given by its name or as it is.

    Raises:
        UsageError: there is none of that name, or torch does not compute in it.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if found not in DTYPES:
        raise UsageError(f"Models cannot have the dtype {dtype!r}.", f"Choose {describe_dtypes()}.")
    return found


def _unreadable(name: str | Path, error: Exception, remedy: str) -> CircuitKitError:
    return CircuitKitError(f"The model {str(name)!r} cannot be loaded: {first_line(error)}", remedy)
