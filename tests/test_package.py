"""What `import circuitkit` gives, and what it does not load."""

import os
import subprocess
import sys

import pytest

import circuitkit
from circuitkit.strategies.discovery import Discovery

PUBLIC = {
    "Ablation",
    "Callback",
    "Circuit",
    "CircuitKitError",
    "CircuitModel",
    "Comparison",
    "Discoverer",
    "Discovery",
    "DiscoveryStrategy",
    "EdgeGraph",
    "Objective",
    "PrecisionPolicy",
    "PromptBatch",
    "Result",
    "Task",
    "UsageError",
    "__version__",
    "compare",
    "discover",
    "evaluate",
    "reevaluate",
}


ROOMS = {
    "circuit",
    "comparison",
    "contracts",
    "data",
    "engine",
    "evaluation",
    "models",
    "page",
    "precision",
    "report",
    "run",
    "strategies",
    "tasks",
    "truth",
}
IMPORT_EACH = """
import os, sys
import lightning, lightning.pytorch, networkx, torch, transformers  # once for all
assert not [name for name in sys.modules if name.startswith("circuitkit")]
for name in sys.argv[1:]:
    if (child := os.fork()) == 0:
        found = {}
        exec(f"from circuitkit import {name}", found)
        import circuitkit
        os._exit(0 if found[name] is getattr(circuitkit, name) else 2)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{name} cannot be imported")
"""


def test_the_public_names() -> None:
    assert set(circuitkit.__all__) == PUBLIC | ROOMS
    assert set(circuitkit.__all__) <= set(dir(circuitkit))
    with pytest.raises(AttributeError, match="attribute nothing"):
        _ = circuitkit.nothing
    assert circuitkit.Discovery is Discovery
    assert issubclass(circuitkit.UsageError, circuitkit.CircuitKitError)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks one process per name; this system has no os.fork")
def test_every_public_name_can_be_imported_first() -> None:
    """Each in a process of its own, since an import that comes first meets circles that a later one does not."""
    ran = subprocess.run([sys.executable, "-c", IMPORT_EACH, *circuitkit.__all__], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_a_star_import_has_every_public_name() -> None:
    found: dict[str, object] = {}
    exec("from circuitkit import *", found)
    assert set(found) - {"__builtins__"} == PUBLIC | ROOMS


@pytest.mark.parametrize(
    "module", ["circuitkit", "circuitkit.errors", "circuitkit.config.registry", "circuitkit.cli.main"]
)
def test_an_import_that_loads_no_large_library(module: str) -> None:
    code = (
        f"import sys, {module}; "
        "assert not {'torch', 'transformers', 'lightning', 'networkx', 'numpy'} & set(sys.modules), list(sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
