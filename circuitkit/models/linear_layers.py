"""The matrix that a linear layer computes with, whatever computes it: plain, quantized, or with LoRA adapters.

A plain layer's matrix is a view of its parameter. That of a quantized layer, or of one with adapters, is *made*: a new
tensor on every call. The layer itself stays as it is.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from circuitkit.errors import UsageError


def unwrap(module: Any) -> Any:
    """Return the module inside what `torch.compile` returned; any other module as it is."""
    return getattr(module, "_orig_mod", module)


def uncompiled_name(name: str) -> str:
    """Return a parameter's name as it is without `torch.compile`."""
    return name.replace("_orig_mod.", "")


def is_made(module: nn.Module) -> bool:
    """Tell whether the matrix of this layer is made when it is asked for."""
    return _is_quantized(module) or _has_adapters(module)


def matrix(module: nn.Module, dtype: torch.dtype) -> Tensor:
    """Return a linear layer's matrix `[out, in]`, detached.

    Args:
        module: the layer.
        dtype: of a matrix that is made.

    Raises:
        UsageError: the layer is of a kind that circuitkit cannot read.
    """
    module = unwrap(module)
    if _has_adapters(module):
        return _with_adapters(module, dtype)
    if _is_quantized(module):
        return _dequantize(module).to(dtype)
    weight: Any = module.weight
    if isinstance(module, Conv1D):
        transposed: Tensor = weight.detach().T
        return transposed
    if not isinstance(module, nn.Linear):
        raise unreadable(module, "Load the model without it (for an adapter: merge_and_unload()).")
    detached: Tensor = weight.detach()
    return detached


def bias(module: nn.Module, dtype: torch.dtype) -> Tensor | None:
    """Return a linear layer's bias `[out]`, detached, or None; arguments as of `matrix`."""
    module = unwrap(module)
    found: Tensor | None = getattr(module.base_layer if _has_adapters(module) else module, "bias", None)
    if found is None:
        return None
    return found.detach().to(dtype) if is_made(module) else found.detach()


def named_weights(module: nn.Module, dtype: torch.dtype, prefix: str = "") -> dict[str, Tensor]:
    """Return parameters and buffers of a module by name, detached; of linear layers the matrices they compute with.

    The names are those in `module_copy.copy_without_hooks(module)`.
    """
    module = unwrap(module)
    if is_made(module):
        found = {f"{prefix}weight": matrix(module, dtype), f"{prefix}bias": bias(module, dtype)}
        return {name: tensor for name, tensor in found.items() if tensor is not None}
    own = (*module.named_parameters(prefix[:-1], recurse=False), *module.named_buffers(prefix[:-1], recurse=False))
    weights = {name: tensor.detach() for name, tensor in own}
    for name, child in module.named_children():
        weights |= named_weights(child, dtype, f"{prefix}{name}.")
    return weights


def scales_of_quantized(model: nn.Module) -> list[Tensor]:
    """List the tensors that quantized layers hold besides parameters and buffers."""
    found: list[Tensor] = []
    for layer in filter(_is_quantized, model.modules()):
        weight: Any = layer.weight
        state: Any = getattr(weight, "quant_state", None)
        nested: Any = getattr(state, "state2", None)
        held = [getattr(weight, "SCB", None)]
        for one in (state, nested):
            held += [] if one is None else vars(one).values()
        found += [tensor for tensor in held if isinstance(tensor, Tensor)]
    return found


def describe(model: nn.Module) -> list[str]:
    """Describe in a sentence each that some matrices are made: of quantized layers, and of LoRA adapters."""
    layers = list(model.modules())
    kinds = sorted({type(layer).__name__ for layer in layers if _is_quantized(layer)})
    found = []
    if kinds:
        found.append(f"The model is quantized ({', '.join(kinds)}): its weights were read dequantized.")
    adapters = sorted({name for layer in layers if _has_adapters(layer) for name in _active(layer)})
    if adapters:
        found.append(f"The weights include the products of the LoRA adapters {', '.join(adapters)}.")
    return found


def _is_quantized(module: nn.Module) -> bool:
    return _is_from(module, "bitsandbytes") and hasattr(module, "weight")


def _has_adapters(module: nn.Module) -> bool:
    return _is_from(module, "peft") and hasattr(module, "base_layer")


def _is_from(module: nn.Module, package: str) -> bool:
    return any(one.__module__.partition(".")[0] == package for one in type(module).__mro__)


def _dequantize(module: Any) -> Tensor:
    # Here, because it takes a second to import, and only a quantized model needs it
    from bitsandbytes import functional
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    weight = module.weight
    if isinstance(module, Linear4bit) and weight.quant_state is not None:
        data, state = weight.data, weight.quant_state
        if getattr(state, "packing_format_for_cpu", False):  # the layer repacked its weight on its first run
            state = copy.copy(state)  # which the next function changes
            state.original_nested = False
            data, state = functional._convert_weight_packed_for_cpu_inverse(data, state)
            state.absmax = state.absmax.T.reshape(-1).float()
        dequantized: Tensor = functional.dequantize_4bit(data, state)
        return dequantized
    if isinstance(module, Linear8bitLt):
        scales = weight.SCB if weight.SCB is not None else module.state.SCB
        if scales is not None:
            rows: Tensor = weight.data.float() * (scales.float() / 127)[:, None]
            return rows
    raise unreadable(module, "Load the model with bitsandbytes' 4 or 8 bits, or without quantization.")


def _with_adapters(module: Any, dtype: torch.dtype) -> Tensor:
    total = matrix(module.base_layer, dtype)
    for name in _active(module):
        plain = name not in module.lora_variant and module.lora_B[name].bias is None
        if not plain:
            raise unreadable(module)
        delta = module.lora_B[name].weight.detach() @ module.lora_A[name].weight.detach()
        total = total + module.scaling[name] * delta.to(dtype)
    return total


def _active(module: Any) -> list[str]:
    """Return the names of the adapters whose products are not in the weights of the base layer."""
    if not hasattr(module, "lora_A"):
        raise unreadable(module)
    if module.disable_adapters or module.merged:
        return []
    return [name for name in module.active_adapters if name in module.lora_A]


def unreadable(module: nn.Module, remedy: str = "Merge the adapter first: model.merge_and_unload().") -> UsageError:
    """Make the error for a layer of an unknown kind; the remedy is by default that for adapters."""
    kind = type(module)
    return UsageError(f"A {kind.__module__}.{kind.__name__} has no matrix that circuitkit can read.", remedy)
