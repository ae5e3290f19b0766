"""The two programs of the ACDC paper that tracr compiles, for the models `tracr-reverse` and `tracr-frac-prevs`.

Prompts are all inputs of the program, of 1 to 5 tokens after a first token `BOS`, which tracr's models need. Every
position after it is an answer. The corrupted prompt is another input of the same length and split, at random. The
inputs of each length are dealt among the splits; those of length 1 are too few, and are all in train.
"""

import itertools
from abc import abstractmethod
from random import Random
from typing import ClassVar

from transformers import PreTrainedTokenizerBase

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError
from circuitkit.tasks.base import Split, Task, check_request, check_supply, require_tokenizer
from circuitkit.tasks.drawn import deal

BOS, LONGEST = "BOS", 5
_FEWEST = 8
"""With fewer inputs, a quarter of them is not a prompt and another."""

Tokens = tuple[str, ...]


class _Program(Task):
    """A compiled program."""

    model: ClassVar[str]
    vocabulary: ClassVar[Tokens]

    @abstractmethod
    def answers(self, tokens: Tokens) -> list[str | None]:
        """Run the program: the right token at each position, or None if the answer is a number."""

    def available(self, tokenizer: PreTrainedTokenizerBase | None, split: Split, seed: int) -> int:
        """Count the inputs of a split; the tokenizer makes no difference."""
        check_request(split, 1)
        return len(self._inputs(split, seed))

    def prompts(self, tokenizer: PreTrainedTokenizerBase | None, split: Split, examples: int, seed: int) -> PromptBatch:
        """Make at most `examples` pairs of one split, chosen by the seed.

        Raises:
            UsageError: the tokenizer is not that of the program's model.
        """
        check_request(split, examples)
        id_of = self._ids(require_tokenizer(tokenizer, self))
        inputs = self._inputs(split, seed)
        notes = check_supply(type(self).__name__, split, examples, len(inputs))
        rng = Random(f"{self.model} corrupted {split} {seed}")
        clean = inputs[:examples]
        corrupted = [
            rng.choice([other for other in inputs if len(other) == len(tokens) and other != tokens]) for tokens in clean
        ]
        answers = [self.answers(tokens) for tokens in clean]
        categorical = answers[0][0] is not None
        return PromptBatch.from_ids(
            [[id_of[token] for token in (BOS, *tokens)] for tokens in clean],
            [[id_of[token] for token in (BOS, *tokens)] for tokens in corrupted],
            [[[-1 if right is None else id_of[right]] for right in row] for row in answers],
            [[[id_of[token] for token in self.vocabulary if token != right] for right in row] for row in answers]
            if categorical
            else None,
            answer_positions=[list(range(1, 1 + len(tokens))) for tokens in clean],
            notes=notes,
            templates=[f"length {len(tokens)}" for tokens in clean],
        )

    def _ids(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
        known = tokenizer.get_vocab()
        if missing := [token for token in (BOS, *self.vocabulary) if token not in known]:
            raise UsageError(
                f"The task {type(self).__name__} is for the model {self.model!r}, and this tokenizer has no token "
                f"{missing[0]!r}.",
                f"Choose the model {self.model!r}.",
            )
        return {token: known[token] for token in (BOS, *self.vocabulary)}

    def _inputs(self, split: Split, seed: int) -> list[Tokens]:
        """Return the inputs of a split, of every length that has at least two for each split."""
        found: list[Tokens] = []
        for length in range(1, LONGEST + 1):
            every = list(itertools.product(self.vocabulary, repeat=length))
            if len(every) >= _FEWEST:
                found += deal(every, self, split, seed)
            elif split == "train":
                found += every
        return Random(f"{self.model} {split} {seed}").sample(found, len(found))


class TracrReverse(_Program):
    """Reverse a sequence of up to 5 tokens, with the model `tracr-reverse` (Conmy et al. 2023, arXiv 2304.14997)."""

    model = "tracr-reverse"
    vocabulary = ("0", "1", "2")

    def answers(self, tokens: Tokens) -> list[str | None]:
        """Reverse the tokens."""
        return list(reversed(tokens))


class TracrFracPrevs(_Program):
    """The fraction of `x` among the tokens so far, with the model `tracr-frac-prevs` (Conmy et al. 2023).

    The output is a number, so that there are no right tokens, and the objective is `squared_error`.
    """

    objective = "squared_error"
    model = "tracr-frac-prevs"
    vocabulary = ("w", "x", "y", "z")

    def answers(self, tokens: Tokens) -> list[str | None]:
        """Return None for every position."""
        return [None] * len(tokens)
