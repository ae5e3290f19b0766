"""Freeing parameters of a module temporarily, and returning their memory to the system."""

import ctypes
import sys
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from mmap import PAGESIZE
from pathlib import Path

import torch
from torch import Tensor, nn

_DONTNEED = 4
"""MADV_DONTNEED on Linux: drops a mapped file's pages, which are read again if they are accessed."""


class Freeable:
    """Parameters whose values can be freed and allocated again; the parameter objects stay the same."""

    def __init__(self, parameters: Sequence[nn.Parameter], pages: "MappedPages") -> None:
        self._parameters, self._pages = parameters, pages
        self._layouts = [(parameter.shape, parameter.stride()) for parameter in parameters]

    def free(self) -> None:
        """Free the values."""
        for parameter in self._parameters:
            data = parameter.data
            self._pages.drop(data)
            parameter.data = data.new_empty(0)

    @contextmanager
    def allocated(self) -> Iterator[None]:
        """Allocate memory for each parameter, with its old layout, to be filled inside a `with`.

        If that fails, the parameters are freed again: none keeps undefined values.
        """
        try:
            for parameter, (shape, stride) in zip(self._parameters, self._layouts, strict=True):
                data = parameter.data
                parameter.data = torch.empty_strided(shape, stride, dtype=data.dtype, device=data.device)
            yield
        except BaseException:
            self.free()
            raise


class ParameterIndex:
    """Finds the parameters of a module that given tensors are views of."""

    def __init__(self, module: nn.Module) -> None:
        named = list(module.named_parameters(remove_duplicate=False))
        self._names = Counter(parameter.data_ptr() for _, parameter in named)
        self._parameters = {parameter.data_ptr(): parameter for _, parameter in named}
        self._starts = sorted(self._parameters)
        self._pages = MappedPages()

    def freeable(self, views: Iterable[Tensor]) -> Freeable:
        """Return the parameters that consist of exactly these views.

        A parameter that is tied to another one, or has values outside the views, is left out.
        """
        covered: dict[int, int] = defaultdict(int)
        for view in views:
            start = self._starts[bisect_right(self._starts, view.data_ptr()) - 1]
            if start <= view.data_ptr() < start + self._parameters[start].nbytes:
                covered[start] += view.numel()
        whole = [
            self._parameters[start]
            for start, values in covered.items()
            if self._names[start] == 1 and values == self._parameters[start].numel()
        ]
        return Freeable(whole, self._pages)


class MappedPages:
    """Memory that maps files and has not been written to (safetensors loads models this way).

    A mapping exists as long as any tensor in it does, so freeing the other tensors returns no memory. But their pages
    can be dropped: if needed, they are read from the file again. Mappings that have been written to are left alone.
    """

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []
        try:
            described = Path("/proc/self/smaps").read_text(errors="replace")
        except OSError:  # not Linux, or not allowed
            return
        start = stop = written = 0
        is_file = False
        for line in described.splitlines():
            first, *rest = line.split()
            if "-" in first and len(rest) >= 4:  # 7fd7be000000-7fd7de12a000 rw-p 00000000 fe:00 16039960 /a/file
                start, stop = (int(end, 16) for end in first.split("-"))
                is_file = len(rest) > 4 and rest[4].startswith("/")
            elif first == "Anonymous:":
                written = int(rest[0])
            elif first == "Swap:" and is_file and written + int(rest[0]) == 0:
                self._ranges.append((start, stop))

    def drop(self, tensor: Tensor) -> None:
        """Drop the pages that a tensor fills, if it is in such a mapping."""
        start = -(-tensor.data_ptr() // PAGESIZE) * PAGESIZE
        stop = (tensor.data_ptr() + tensor.nbytes) // PAGESIZE * PAGESIZE
        mapped = any(low <= start and stop <= high for low, high in self._ranges)
        if tensor.device.type == "cpu" and mapped and start < stop:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _DONTNEED)


def return_free_memory() -> None:
    """Return freed memory to the system, if the C library can (glibc)."""
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
