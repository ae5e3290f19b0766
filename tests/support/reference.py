"""Figures made with other people's code; tests/reference/eap_ig_gpt2/README.md says how."""

import json
from pathlib import Path
from typing import Any

EAP_IG = Path(__file__).parents[1] / "reference" / "eap_ig_gpt2"


def read(name: str) -> Any:
    """Read one of the JSON files."""
    return json.loads((EAP_IG / name).read_text())
