"""Checks of what people bring: wrapped models, their weights, and prompts."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import CircuitKitError, UsageError, quote
from circuitkit.models.linear_layers import is_made, unreadable, unwrap

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""Those in which torch computes everything that models need, also on a CPU."""
Fingerprint = tuple[tuple[Any, ...], ...]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of the hub, transformers and bitsandbytes inside: what fails is told in one line."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "transformers", "bitsandbytes")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def unwrap_model(model: Any) -> PreTrainedModel:
    """Return the transformers model inside what `torch.compile` or PEFT made of it; another model as it is.

    Raises:
        UsageError: it is no transformers model, has no unembedding, or has prompts of PEFT's.
    """
    if isinstance(model, str | Path):
        raise UsageError(f"{quote(str(model))} is a name, not a model.", "Load it: CircuitModel.from_pretrained(name).")
    model = unwrap(model)
    if hasattr(model, "get_base_model") and hasattr(model, "peft_config"):
        if any(config.is_prompt_learning for config in model.peft_config.values()):
            raise UsageError("The PEFT model has learned prompts, which circuitkit cannot add.", "Use LoRA adapters.")
        model = unwrap(model.get_base_model())
    if not isinstance(model, PreTrainedModel):
        raise UsageError(
            f"A {type(model).__name__} is not a transformers model.", "Give a model such as GPT2LMHeadModel."
        )
    if model.get_output_embeddings() is None:
        raise UsageError(f"A {type(model).__name__} has no language-model head.", "Load it with AutoModelForCausalLM.")
    return model


def check_weights(model: PreTrainedModel) -> None:
    """Check that all weights are in memory, on one device, of one floating-point dtype, and can have gradients.

    Raises:
        UsageError: they are not.
        CircuitKitError: a precision policy holds them, or they were lost.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_inference():
            raise UsageError(
                f"The model was made under torch.inference_mode: its {name} allows no gradients.",
                "Make it outside of inference_mode, or under torch.no_grad.",
            )
        if parameter.numel() == 0:
            raise CircuitKitError(
                f"The model has no weights in {name}: a precision policy holds them, or they were lost.",
                "Wait for the run that uses the policy, or load the model again.",
            )
    embeddings: Any = model.get_input_embeddings()
    if is_made(embeddings) or not isinstance(embeddings, nn.Embedding):
        raise unreadable(embeddings)
    parameters = _plain_parameters(model)
    devices = sorted({str(parameter.device) for parameter in parameters})
    if "meta" in devices:
        raise UsageError("Some weights of the model are not in memory (offloaded).", "Load it without device_map.")
    if len(devices) > 1:
        raise UsageError(
            f"The weights of the model are on several devices ({', '.join(devices)}).", "Load it without device_map."
        )
    dtypes = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in parameters})
    if unknown := [name for name in dtypes if getattr(torch, name) not in DTYPES]:
        raise UsageError(
            f"The model has weights in {unknown[0]}, in which torch does not compute.",
            f"Load it in {describe_dtypes()}.",
        )
    if len(dtypes) > 1:
        raise UsageError(
            f"The model has weights of several dtypes ({', '.join(dtypes)}).",
            f"Convert it to one: model.to(torch.{dtypes[-1]}).",
        )


def describe_dtypes() -> str:
    """List the dtypes that a model can have, in words."""
    *others, last = (str(dtype).removeprefix("torch.") for dtype in DTYPES)
    return f"{', '.join(others)} or {last}"


def check_vocabulary(batch: PromptBatch, embeddings: int, vocabulary: int) -> None:
    """Check that all tokens have embeddings, and all answers logits.

    Raises:
        UsageError: one does not; the message names the first.
    """
    for what, ids, size, least in (
        ("clean prompt", batch.clean, embeddings, 0),
        ("corrupted prompt", batch.corrupted, embeddings, 0),
        ("answer", batch.answers, vocabulary, -1),
        ("wrong answer", batch.wrong_answers, vocabulary, -1),
    ):
        outside = ((ids < least) | (ids >= size)).nonzero()
        if len(outside):
            first = outside[0]
            raise UsageError(
                f"The {what} of prompt {int(first[0])} has the token {int(ids[tuple(first)])}, but the model's "
                f"vocabulary has {size} tokens.",
                "Use the model's own tokenizer.",
            )


def fingerprint(model: nn.Module) -> Fingerprint:
    """Describe the modules, parameters and buffers of a model, so that a change of them can be noticed."""
    tensors = (*model.parameters(), *model.buffers())
    modules = tuple(id(module) for module in model.modules())
    return (modules, *((id(x), x.data_ptr(), _version(x), x.dtype, str(x.device)) for x in tensors))


def _version(x: Tensor) -> int:
    return -1 if x.is_inference() else x._version  # an inference tensor does not count its changes


def _plain_parameters(module: nn.Module) -> list[nn.Parameter]:
    """List floating-point parameters, except those of quantized layers and adapters."""
    if is_made(module):
        return []
    own = [one for one in module.parameters(recurse=False) if torch.is_floating_point(one)]
    return own + [one for child in module.children() for one in _plain_parameters(child)]
