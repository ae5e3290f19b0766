"""The processes that run one discovery together: which prompts each has, and sums over all of them.

Every process holds the model, and of the prompts in order every n-th, n being the number of processes. Each computes
the totals over its own prompts; these are added up, and divided by the number of all prompts. The terms are gathered
and added in the order of the processes, so that all of them have the same sums, bit for bit, and take the same
decisions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from lightning.fabric import Fabric
from torch import Tensor

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import CircuitKitError

T = TypeVar("T")


class Processes:
    """One process alone, for which every sum is its own term; `FabricProcesses` are several.

    All processes must call the methods in the same order, except `own`.

    Attributes:
        rank: the number of this process, from 0; process 0 writes and prints.
        count: the number of processes.
    """

    rank = 0
    count = 1

    def own(self, batch: PromptBatch, before: int = 0) -> PromptBatch:
        """Return this process's prompts of a batch; there may be none.

        Args:
            batch: the same in every process.
            before: the number of prompts in earlier batches, so that the processes share all batches evenly.
        """
        if self.count == 1:
            return batch
        return batch[slice((self.rank - before) % self.count, None, self.count)]

    def sum(self, x: Tensor) -> Tensor:
        """Add up a tensor over the processes; it has one shape in all of them."""
        return x

    def smallest(self, number: int) -> int:
        """Return the smallest of the processes' numbers, each below 2**63 in size."""
        return number

    def broadcast(self, value: T) -> T:
        """Return the value of process 0."""
        return value

    def agree(self, number: int) -> bool:
        """Tell whether every process has the same number, below 2**63 in size."""
        return self.smallest(number) == -self.smallest(-number)


ALONE = Processes()


class FabricProcesses(Processes):
    """Several processes, connected by Fabric.

    Args:
        fabric: launched.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.rank, self.count = fabric.global_rank, fabric.world_size
        self._fabric = fabric

    def sum(self, x: Tensor) -> Tensor:
        """See the base class."""
        return self._gather(x).sum(0)

    def smallest(self, number: int) -> int:
        """See the base class."""
        return int(self._gather(torch.tensor(number, dtype=torch.int64)).min())

    def broadcast(self, value: T) -> T:
        """See the base class."""
        with _others_may_end():
            return self._fabric.broadcast(value)

    def _gather(self, x: Tensor) -> Tensor:
        """Stack the processes' tensors, on the device of `x`."""
        own = x.detach().to(self._fabric.device).contiguous()
        gathered = [torch.empty_like(own) for _ in range(self.count)]
        with _others_may_end():
            torch.distributed.all_gather(gathered, own)
        return torch.stack(gathered).to(x.device)


@contextmanager
def _others_may_end() -> Iterator[None]:
    """Say in words that another process has ended, which breaks the connection to it."""
    try:
        yield
    except RuntimeError as error:
        raise CircuitKitError(
            "Another process of this run has ended, or cannot be reached any more.",
            "Read its own message, and start all processes again.",
        ) from error
