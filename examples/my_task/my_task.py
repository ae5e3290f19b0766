"""A task outside the package: a pair of names that is repeated.

pip install examples/my_task
circuitkit list tasks
circuitkit discover --model toy --task repeated_names --strategy eap
"""

from itertools import permutations
from random import Random

from transformers import PreTrainedTokenizerBase

from circuitkit import PromptBatch, Task, UsageError
from circuitkit.tasks.base import Split

NAMES = ("Mary", "John", "Lisa", "Paul", "Sarah", "Mark", "Karen", "David", "Emily", "James", "Susan", "Robert")


class RepeatedNames(Task):
    """`When Mary and John went to the store, Mary and` continues with `John`; corrupted, the third name is another one.

    Args:
        place: where they went.
    """

    def __init__(self, place: str = "store") -> None:
        if not place.isalpha():
            raise UsageError(f"The place {place!r} is not a word.", "Give one such as 'store'.")
        self.place = place

    def prompts(self, tokenizer: PreTrainedTokenizerBase | None, split: Split, examples: int, seed: int) -> PromptBatch:
        """Make pairs of one split. Every pair of names is in one split only."""
        if tokenizer is None:
            raise UsageError("This task is made of text, and the model has no tokenizer.", "Give the model one.")
        tokens = {name: tokenizer.encode(f" {name}", add_special_tokens=False) for name in NAMES}
        known = [name for name in NAMES if len(tokens[name]) == 1 and tokens[name] != [tokenizer.unk_token_id]]
        if len(known) < 4:
            raise UsageError(
                f"{len(known)} of the names are one token for this tokenizer, and 4 are needed.",
                "Choose another model.",
            )
        pairs = list(permutations(known, 2))
        Random(f"repeated names {seed}").shuffle(pairs)
        quarter = len(pairs) // 4
        own = {"validation": pairs[:quarter], "test": pairs[-quarter:], "train": pairs[quarter:-quarter]}[split][
            :examples
        ]
        rng = Random(f"repeated names {split} {seed}")
        others = [rng.choice([name for name in known if name not in pair]) for pair in own]
        text = f"When {{}} and {{}} went to the {self.place}, {{}} and"
        return PromptBatch.from_ids(
            [tokenizer.encode(text.format(first, second, first)) for first, second in own],
            [
                tokenizer.encode(text.format(first, second, other))
                for (first, second), other in zip(own, others, strict=True)
            ],
            [tokens[second][0] for _, second in own],
            [tokens[first][0] for first, _ in own],
        )
