"""Random prompts for the checks."""

import torch

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.models.circuit_model import CircuitModel


def random_prompts(
    model: CircuitModel, seed: int = 0, lengths: tuple[int, ...] = (5, 7, 6, 7), positions: int = 1, answers: int = 1
) -> PromptBatch:
    """Make random pairs that part in the middle and share their last token, with different random answers.

    Args:
        model: for its vocabulary, and that of its outputs.
        seed: of the prompts.
        lengths: one per prompt.
        positions: how many answer positions, at the end; with several, the first prompt has one less.
        answers: how many answers, and as many wrong ones, a position has; with several, one prompt has fewer.
    """
    generator = torch.Generator().manual_seed(seed)
    vocabulary, outputs = model.family.embeddings(), model.family.unembedding()[0].shape[0]
    clean = [torch.randint(vocabulary, (length,), generator=generator, dtype=torch.int64) for length in lengths]
    corrupted = [ids.clone() for ids in clean]
    for ids in corrupted:
        part = slice(len(ids) // 3, len(ids) - 1)
        ids[part] = (
            ids[part] + torch.randint(1, vocabulary, ids[part].shape, generator=generator, dtype=ids.dtype)
        ) % vocabulary

    def draw() -> list[int]:
        different: list[int] = torch.randperm(outputs, generator=generator, dtype=torch.int64).tolist()
        return different[: 2 * answers]

    tokens = [[draw() for _ in range(positions)] for _ in lengths]
    right = [[found[:answers] for found in row] for row in tokens]
    wrong = [[found[answers:] for found in row] for row in tokens]
    where = [list(range(-positions, 0)) for _ in lengths]
    if positions > 1:
        for rows in (right, wrong, where):
            del rows[0][0]
    if answers > 1:
        del right[-1][-1][1:]
    one, other = ([ids.tolist() for ids in side] for side in (clean, corrupted))
    return PromptBatch.from_ids(one, other, right, wrong, answer_positions=where)
