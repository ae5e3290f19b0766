"""Circuit discovery in language models, in the style of PyTorch Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuitkit.circuit import Circuit as Circuit
    from circuitkit.discoverer import Discoverer as Discoverer
    from circuitkit.discoverer import discover as discover
    from circuitkit.evaluation import evaluate as evaluate
    from circuitkit.graph import EdgeGraph as EdgeGraph
    from circuitkit.models.circuit_model import CircuitModel as CircuitModel
    from circuitkit.precision.policy import PrecisionPolicy as PrecisionPolicy
    from circuitkit.prompts import PromptBatch as PromptBatch
    from circuitkit.strategies.base import DiscoveryStrategy as DiscoveryStrategy
    from circuitkit.tasks.base import Task as Task

__version__ = "0.1.0"

# Imported when first asked for: torch, transformers and lightning take seconds
_HOMES = {
    "Circuit": "circuitkit.circuit",
    "CircuitModel": "circuitkit.models.circuit_model",
    "Discoverer": "circuitkit.discoverer",
    "DiscoveryStrategy": "circuitkit.strategies.base",
    "EdgeGraph": "circuitkit.graph",
    "PrecisionPolicy": "circuitkit.precision.policy",
    "PromptBatch": "circuitkit.prompts",
    "Task": "circuitkit.tasks.base",
    "discover": "circuitkit.discoverer",
    "evaluate": "circuitkit.evaluation",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
