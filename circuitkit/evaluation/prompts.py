"""The prompts of a task's splits, made for a model, and what to know about them."""

from collections.abc import Mapping

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.tasks.base import Split, Task


def make_prompts(model: CircuitModel, task: Task | PromptBatch, split: Split, examples: int, seed: int) -> PromptBatch:
    """Make a task's prompts of one split, on the model's device; a `PromptBatch` is used as it is.

    Every run begins here: the model's weights of this moment are taken, and the prompts are checked against the model.
    """
    model.synchronize()
    batch = task if isinstance(task, PromptBatch) else task.prompts(model.tokenizer, split, examples, seed)
    model.check_prompts(batch)
    return batch.to(model.device)


def prompt_notes(batches: Mapping[str, PromptBatch]) -> list[str]:
    """Return the notes of the prompts of several splits, each once, with its split unless it is true of all."""
    found = []
    for note in dict.fromkeys(note for batch in batches.values() for note in batch.notes):
        where = [split for split, batch in batches.items() if note in batch.notes]
        found.append(note if len(where) == len(batches) else f"In the {' and '.join(where)} split: {note}")
    return found
