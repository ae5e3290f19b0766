"""Hashes of what a run computes with."""

from dataclasses import replace

from circuitkit.models.circuit_model import CircuitModel
from circuitkit.run.content import describe_content
from circuitkit.tasks.ioi import IOI


def test_labels_and_notes_of_prompts_are_not_hashed() -> None:
    """Runs of versions that had no labels can be resumed."""
    model = CircuitModel.from_pretrained("toy")
    batch = IOI().prompts(model.tokenizer, "train", 4, seed=0)
    labels = tuple("abcd")
    changed = {"labels": replace(batch, templates=labels, notes=("a",)), "others": batch[:3], "plain": batch}
    found = describe_content(model, changed)
    assert found["labels"] == found["plain"]
    assert found["others"] != found["plain"]
