"""Classes of the packages in `examples/`, loaded without installing them."""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "examples"


@cache
def outside(package: str) -> Any:
    """Load the module of a package."""
    spec = importlib.util.spec_from_file_location(package, EXAMPLES / package / f"{package}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[package] = importlib.util.module_from_spec(spec)  # a class path can name what is in it
    spec.loader.exec_module(module)
    return module
