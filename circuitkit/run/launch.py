"""The processes of a run: this one alone, or those that `torchrun` has launched, connected by Fabric."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from circuitkit.engine import memory
from circuitkit.engine.processes import ALONE, FabricProcesses, Processes
from circuitkit.errors import CircuitKitError, UsageError

_COMMAND = "torchrun --nproc_per_node {0} -m circuitkit discover ... --devices {0}"


def check_devices(devices: int) -> None:
    """Check that `torchrun` has launched one process per device.

    Raises:
        UsageError: it has not.
    """
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        raise UsageError(f"devices={devices!r} is not a positive whole number.", "Give a number of processes.")
    launched = _from_torchrun("WORLD_SIZE", 1)
    if launched == 1 and devices > 1:
        raise UsageError(
            f"devices={devices}, but this is one process.",
            f"Launch one per device: {_COMMAND.format(devices)} (or a script of your own, with devices={devices}).",
        )
    if launched != devices:
        raise UsageError(
            f"devices={devices}, but torchrun has launched {launched} processes.",
            f"Give devices={launched} (--devices {launched}).",
        )


def own_rank() -> int:
    """Return the number of this process among those that `torchrun` has launched; 0 if it has not launched it."""
    return _from_torchrun("RANK", 0)


def find_device(accelerator: str, devices: int) -> torch.device:
    """Return this process's device.

    Raises:
        UsageError: there are fewer CUDA devices on this machine than processes.
    """
    if accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if devices == 1:
        return torch.device("cuda")
    here, found = _from_torchrun("LOCAL_WORLD_SIZE", 1), torch.cuda.device_count()
    if here > found:
        raise UsageError(
            f"torchrun has launched {here} processes on this machine, which has {found} CUDA devices.",
            f"Launch {found}, or choose the accelerator cpu.",
        )
    return torch.device("cuda", _from_torchrun("LOCAL_RANK", 0))


def make_fabric(device: torch.device, **options: object) -> Fabric:
    """Make the Fabric of one process, which seeds, logs and calls the callbacks there.

    Args:
        device: of the process.
        options: `callbacks` and `loggers`.
    """
    return Fabric(
        accelerator=device.type,
        devices=1 if device.index is None else [device.index],
        plugins=LightningEnvironment(),  # also where there are other processes: `connect` connects them
        **options,  # type: ignore[arg-type]
    )


@contextmanager
def connect(device: torch.device, devices: int) -> Iterator[Processes]:
    """Connect this process to the others inside a `with`.

    They stay connected for the next run. After an exception the connection is closed, so that no other process waits
    for this one.

    Raises:
        CircuitKitError: the connection was closed before.
    """
    if devices == 1:
        yield ALONE
        return
    here = _from_torchrun("LOCAL_WORLD_SIZE", devices)
    fabric = Fabric(accelerator=device.type, strategy="ddp", devices=here, num_nodes=devices // here)
    if _Closed.closed:
        raise CircuitKitError("The processes lost each other in an earlier run.", "Start all of them again.")
    fabric.launch()
    try:
        yield FabricProcesses(fabric)
    except BaseException:
        _Closed.closed = True
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        raise


class _Closed:
    closed = False  # under torchrun, processes can be connected only once


def memory_for_each(device: torch.device, given: int | None, processes: Processes) -> int:
    """Return the bytes that each process may use, the same in all of them.

    Args:
        device: of this process.
        given: by the user; None: half of what is free, shared by the processes on one machine's CPU.
        processes: of the run.
    """
    sharing = _from_torchrun("LOCAL_WORLD_SIZE", 1) if device.type == "cpu" else 1
    return processes.smallest(given or memory.budget(device) // sharing)


def check_prompts(count: int, processes: Processes) -> None:
    """Check that every process gets a prompt.

    Raises:
        UsageError: there are fewer prompts than processes.
    """
    if count < processes.count:
        raise UsageError(
            f"{processes.count} processes cannot share {count} prompts.", "Give more prompts, or fewer devices."
        )


def _from_torchrun(name: str, otherwise: int) -> int:
    return int(os.environ.get(name, otherwise)) if torch.distributed.is_torchelastic_launched() else otherwise
