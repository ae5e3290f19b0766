"""Free memory, and the size of a batch that fits into it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from circuitkit.errors import NO_MEMORY, CircuitKitError
from circuitkit.precision.free_memory import return_free_memory

FRACTION = 0.5
"""The fraction of the free memory that the engine's largest buffers may take together."""
_WORTH_RELEASING = 1 << 20
_LAYERS_BETWEEN_RELEASES = 3
_UNKNOWN = 4 << 30  # for systems that do not report free memory: that of a small machine


def budget(device: torch.device) -> int:
    """Return the bytes that the engine may use on a device: half of what is free."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch keeps it for reuse
        return int(FRACTION * (torch.cuda.mem_get_info(device)[0] + unused))
    free = free_bytes()
    return _UNKNOWN if free is None else int(FRACTION * free)


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Turn an error of torch or Python that says that memory ran out into one that says what to do.

    Raises:
        CircuitKitError: memory ran out inside the `with`.
    """
    try:
        yield
    except Exception as error:
        plain = isinstance(error, RuntimeError) and any(said in str(error) for said in NO_MEMORY)
        if not plain and not isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        what = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CircuitKitError(
            f"Memory ran out ({what.rstrip('.')}).", "Give a smaller memory budget, or fewer prompts (examples)."
        ) from error


def free_bytes(root: Path = Path("/")) -> int | None:
    """Return the least that the system and the limits of this process's control groups leave; None: unknown.

    Args:
        root: the folder that holds `proc` and `sys`.
    """
    found = [_available(root / "proc/meminfo"), *(_left(folder) for folder in _control_groups(root))]
    return min((size for size in found if size is not None), default=None)


def _available(meminfo: Path) -> int | None:
    for name, value in _fields(meminfo):
        if name == "MemAvailable:":
            return 1024 * value
    return None


def _control_groups(root: Path) -> Iterator[Path]:
    """List the folders of this process's memory control groups and of those that contain them.

    A container may not show the folders of its groups. Then the root of what it shows is its own group.
    """
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, group = line.split(":", 2)
        if number != "0" and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("" if number == "0" else "memory")
        folder = top / group.lstrip("/")
        yield from (one for one in (folder, *folder.parents) if one == top or top in one.parents)


def _left(folder: Path) -> int | None:
    """Return what the limit of a control group leaves (version 2 or 1); pages of files count as free."""
    for limit, usage, inactive in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        numbers = [_number(folder / name) for name in (limit, usage)]
        if numbers[0] is not None and numbers[1] is not None:
            cached = dict(_fields(folder / "memory.stat")).get(inactive, 0)
            return max(numbers[0] - numbers[1] + cached, 0)
    return None


def _number(file: Path) -> int | None:
    text = "".join(_lines(file))
    return int(text) if text.isdigit() else None  # `max`: no limit


def _fields(file: Path) -> list[tuple[str, int]]:
    """Read lines of a name and a number."""
    split = [line.split() for line in _lines(file)]
    return [(words[0], int(words[1])) for words in split if len(words) > 1 and words[1].isdigit()]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def release(layer: int, stream: Tensor) -> None:
    """Return freed memory to the system after every few layers of a run, if its tensors are large enough to matter.

    Between tensors that stay, the C library keeps what is freed and often cannot use it again: up to a third of a run.

    Args:
        layer: its number.
        stream: a tensor of the size of the residual stream.
    """
    if layer % _LAYERS_BETWEEN_RELEASES == 0 and stream.device.type == "cpu" and stream.nbytes >= _WORTH_RELEASING:
        return_free_memory()


@dataclass(frozen=True)
class Need:
    """The bytes that a use of the engine needs for each prompt, by part.

    Attributes:
        held: for every prompt, as long as the use lasts.
        working: for every prompt of the batch at work, until the next one.
        extra: likewise, if the budget leaves room for it.
        prompts: the number of prompts that it works on; None: those of the run.
    """

    held: Mapping[str, int] = field(default_factory=dict)
    working: Mapping[str, int] = field(default_factory=dict)
    extra: Mapping[str, int] = field(default_factory=dict)
    prompts: int | None = None

    def largest_batch(self, prompts: int, available: int) -> int:
        """Compute how many prompts may be in a batch.

        Args:
            prompts: in all batches.
            available: bytes.

        Raises:
            CircuitKitError: not even batches of one prompt fit.
        """
        held, working = prompts * sum(self.held.values()), max(sum(self.working.values()), 1)
        if not self.fits(prompts, available):
            raise CircuitKitError(
                f"{prompts:,} prompts need at least {(held + working) / 2**20:,.1f} MiB of memory "
                f"besides the weights, but only {available / 2**20:,.1f} MiB may be used.",
                "Raise the memory budget, free memory, or take fewer or shorter prompts.",
            )
        return min((available - held) // working, prompts)

    def fits(self, prompts: int, available: int) -> bool:
        """Tell whether at least batches of one prompt fit; arguments as of `largest_batch`."""
        return available >= prompts * sum(self.held.values()) + max(sum(self.working.values()), 1)

    def predict(self, prompts: int, available: int) -> dict[str, int]:
        """Return the bytes at the peak, by part; arguments and errors as of `largest_batch`."""
        batch = self.largest_batch(prompts, available)
        parts = [{part: prompts * size for part, size in self.held.items()}]
        parts += [{part: batch * size for part, size in some.items()} for some in (self.working, self.extra)]
        room = available - sum(sum(part.values()) for part in parts[:2])
        parts[2] = {part: min(size, room) for part, size in parts[2].items()}
        found: dict[str, int] = {}
        for part in parts:
            found |= {name: found.get(name, 0) + size for name, size in part.items() if size}
        return found


def kept_by_autograd(run: Callable[[], Tensor], known: Iterator[Tensor]) -> int:
    """Count the bytes that autograd keeps of a computation for its backward pass.

    Args:
        run: the computation.
        known: tensors that are there anyway, such as weights.
    """
    others = {tensor.untyped_storage().data_ptr() for tensor in known}
    kept: dict[int, Tensor] = {}  # holds the tensors, so that no other takes their place

    def pack(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in others:
            kept[place] = tensor
        return tensor.detach()

    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            run()
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    finally:
        kept.clear()  # the graph holds `pack`, and would be held by its own results


def how_many(bytes_each: int, available: int, what: str) -> int:
    """Compute how many items fit into `available` bytes.

    Args:
        bytes_each: of one item.
        available: bytes.
        what: the name of an item, for the error message.

    Raises:
        CircuitKitError: not even one fits.
    """
    count = available // max(bytes_each, 1)
    if count < 1:
        raise CircuitKitError(
            f"One {what} takes {bytes_each / 2**20:,.0f} MiB, but only {available / 2**20:,.0f} MiB may be used.",
            "Use shorter prompts or a smaller model, raise the memory budget, or free memory.",
        )
    return count
