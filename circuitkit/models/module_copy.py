"""Copies of modules that share parameters with the original, and nothing that a user attached to it."""

import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from circuitkit.errors import UsageError
from circuitkit.models.backward_rule import BackwardRule
from circuitkit.models.linear_layers import bias, is_made, unwrap


def copy_without_hooks(module: nn.Module) -> nn.Module:
    """Copy a module and its children in evaluation mode: same parameters, no hooks.

    Layers whose matrices are made (see `linear_layers`) become plain `nn.Linear` without values: their weights must be
    given on every call.

    Raises:
        UsageError: the `forward` of a module was replaced by something else.
    """
    module = unwrap(module)
    if is_made(module):
        inner: Any = module
        has_bias = bias(module, torch.float32) is not None
        return nn.Linear(inner.in_features, inner.out_features, has_bias, "meta", torch.float32).eval()
    twin: nn.Module = module.__new__(type(module))
    for name, value in vars(module).items():
        twin.__dict__[name] = _copy_attribute(module, twin, name, value)
    if "_hf_hook" in twin.__dict__:  # accelerate replaced `forward` on the instance
        for name in ("_hf_hook", "_old_forward", "forward"):
            twin.__dict__.pop(name, None)
    elif "forward" in twin.__dict__ and not isinstance(twin.__dict__["forward"], types.MethodType):
        raise UsageError(
            f"The forward method of a {type(module).__name__} of this model was replaced.",
            "Restore it (del module.forward), or make a subclass.",
        )
    twin.training = False
    twin._modules = {
        name: None if child is None else copy_without_hooks(child) for name, child in module._modules.items()
    }
    return twin


def copy_mlp(mlp: nn.Module, rule: BackwardRule, find_activation: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Copy an MLP; the gradient of the copy's activation function follows a rule.

    Args:
        mlp: the module.
        rule: the backward rule.
        find_activation: returns the activation function within the copy; called if the rule changes its gradient.

    Raises:
        UsageError: as `copy_without_hooks` and `find_activation`.
    """
    twin = copy_without_hooks(mlp)
    if type(rule).activation is not BackwardRule.activation:
        find_activation(twin).register_forward_hook(lambda _, given, output: rule.activation(given[0], output))
    return twin


def modules_with_hooks(model: nn.Module) -> list[str]:
    """Return the names of the modules that have forward hooks; transformers' own, which record, do not count."""
    return [
        name or type(model).__name__
        for name, module in model.named_modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if not str(getattr(hook, "__module__", "")).startswith("transformers.")
    ]


def _copy_attribute(module: nn.Module, twin: nn.Module, name: str, value: Any) -> Any:
    if "_hooks" in name and isinstance(value, dict):
        return OrderedDict()
    if name == "_compiled_call_impl":  # of `module.compile()`
        return None
    if isinstance(value, types.MethodType) and value.__self__ is module:
        return types.MethodType(value.__func__, twin)
    return dict(value) if name in ("_parameters", "_buffers") else value
