"""A pretend CUDA device: it computes on the CPU, and refuses what torch refuses because tensors are on two devices.

So a machine without a GPU finds tensors in the wrong place. It does not show what only a GPU has: streams, kernels,
its allocator. As on CUDA, an index may be on the CPU, and so may a tensor without dimensions.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

CUDA = torch.device("cuda", 0)
_INDEXING = ("aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_", "aten::_unsafe_index")
_COPYING = ("aten::copy_", "aten::_to_copy")


class OnCUDA(torch.Tensor):
    """Says that it is on CUDA; `inner` has the values."""

    @staticmethod
    def __new__(cls, inner, requires_grad=False):
        own = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), dtype=inner.dtype, device="cpu", requires_grad=requires_grad
        )
        own.inner = inner
        return own

    def __init__(self, *_, **__):
        pass

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)

    def untyped_storage(self):
        return self.inner.untyped_storage()

    def tolist(self):
        return self.inner.tolist()

    def __repr__(self):
        return f"OnCUDA({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs, schema = dict(kwargs or {}), func._schema
        _refuse_two_devices(schema, args, kwargs)
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        found = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        written = [argument for argument in schema.arguments if argument.alias_info and argument.alias_info.is_write]
        if written and schema.returns and schema.returns[0].alias_info and schema.returns[0].alias_info.is_write:
            name = written[0].name
            return kwargs[name] if name in kwargs else args[[one.name for one in schema.arguments].index(name)]
        return tree_map(lambda value: OnCUDA(value) if isinstance(value, torch.Tensor) else value, found)


def _inner(value):
    return value.inner if isinstance(value, OnCUDA) else value


def _refuse_two_devices(schema, args, kwargs):
    if schema.name in _COPYING:
        return
    if schema.name in _INDEXING:
        if not isinstance(args[0], OnCUDA):
            raise RuntimeError(f"{schema.name}: an index is on cuda, what it indexes on the cpu")
        return
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    if wrong := [value for value in tensors if not isinstance(value, OnCUDA) and value.ndim]:
        shapes = [tuple(value.shape) for value in wrong]
        raise RuntimeError(f"{schema.name}: Expected all tensors to be on the same device; on the cpu: {shapes}")


class _ToCUDA(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return OnCUDA(value.detach().clone())

    @staticmethod
    def backward(ctx, gradient):
        return _inner(gradient)


class _ToCPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.inner.clone()

    @staticmethod
    def backward(ctx, gradient):
        return OnCUDA(gradient)


def _move(value, device):
    if device is None:
        return value
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda == isinstance(value, OnCUDA):
        return value
    return (_ToCUDA if on_cuda else _ToCPU).apply(value)


class _Moves(TorchFunctionMode):
    """Lets `to`, `cpu` and `device=` mean the pretend device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.cpu:
            return _move(args[0], "cpu")
        if func is torch.Tensor.to:
            return self._to(func, *args, **kwargs)
        if func is torch.Tensor.new_tensor:
            made = torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype))
            return OnCUDA(made) if isinstance(args[0], OnCUDA) else made
        device = kwargs.get("device")
        if device is None or torch.device(device).type != "cuda" or any(isinstance(one, OnCUDA) for one in args):
            return func(*args, **kwargs)
        made = func(*args, **{**kwargs, "device": "cpu"})
        return made if isinstance(made, OnCUDA) else OnCUDA(made)

    @staticmethod
    def _to(func, value, *rest, **kwargs):
        kwargs.pop("non_blocking", None)
        device, others = kwargs.pop("device", None), []
        for one in rest:
            if isinstance(one, torch.Tensor):
                device = one.device
                others.append(one.dtype)
            elif isinstance(one, str | torch.device):
                device = one
            else:
                others.append(one)
        value = _move(value, device)
        return func(value, *others, **kwargs) if others or kwargs else value


@contextmanager
def pretend_cuda() -> Iterator[None]:
    """Let `cuda` be the pretend device inside a `with`."""
    with _Moves():
        yield


def to_pretend_cuda(module: torch.nn.Module) -> None:
    """Move a module's parameters and buffers; tied ones stay tied."""
    moved: dict[int, torch.nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                value = torch.nn.Parameter(OnCUDA(parameter.detach().clone()), parameter.requires_grad)
                part._parameters[name] = moved.setdefault(id(parameter), value)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = OnCUDA(buffer.clone())
