"""Rows of prompt files."""

from typing import Any

from circuitkit.tasks.ioi import NAMES


def row(number: int = 0, **changed: Any) -> dict[str, Any]:
    """A valid row; each number has another name in it."""
    name = NAMES[2 + number]
    clean = f"Then, Mary and {name} went to the store. {name} gave a ring to"
    corrupted = f"Then, Mary and {name} went to the store. Mary gave a ring to"
    return {"clean": clean, "corrupted": corrupted, "answer": " Mary", "wrong_answer": f" {name}"} | changed
