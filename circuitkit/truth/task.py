"""The task that a program computes: its prompts, and a tokenizer of its words."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from circuitkit.config import registry
from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError, quote
from circuitkit.tasks.base import Split, Task, check_request, require_tokenizer
from circuitkit.truth.steps import BOS

_UNKNOWN = "<unk>"
_TRIES = 200


@dataclass(frozen=True)
class Pair:
    """A clean and a corrupted prompt, as words; BOS comes before both.

    Attributes:
        clean, corrupted: with equally many words.
        answers, wrong_answers: words after the clean prompt.
        template: what the pair was made from.
    """

    clean: Sequence[str]
    corrupted: Sequence[str]
    answers: Sequence[str]
    wrong_answers: Sequence[str]
    template: str = ""


class PromptMaker(ABC):
    """What makes the prompts of a task.

    Attributes:
        words: of the vocabulary, without special tokens.
        length: of all prompts in tokens, with BOS.
    """

    words: ClassVar[Sequence[str]]
    length: ClassVar[int]

    @abstractmethod
    def draw(self, rng: Random) -> Pair:
        """Draw a pair of prompts."""


def vocabulary(program: PromptMaker) -> list[str]:
    """Return the vocabulary of a program: special tokens, then its words."""
    return [BOS, _UNKNOWN, *program.words]


def make_tokenizer(program: PromptMaker) -> PreTrainedTokenizerFast:
    """Make a tokenizer of the program's words, separated by spaces, that puts BOS in front."""
    words = {word: number for number, word in enumerate(vocabulary(program))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, words[BOS])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, unk_token=_UNKNOWN, model_max_length=program.length
    )


class ProgramTask(Task):
    """The task that a program computes.

    Args:
        program: the class path of the program, such as `circuitkit.truth.copying.Induction`.

    Raises:
        UsageError: there is no such class.
    """

    def __init__(self, program: str) -> None:
        self.program = program
        try:
            self._program = registry.import_object(program)()
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise UsageError(f"There is no program {quote(program)}.", "Give the class path of one.") from error
        if not isinstance(self._program, PromptMaker):
            raise UsageError(f"{quote(program)} is no program.", "Give the class path of one.")

    def prompts(self, tokenizer: PreTrainedTokenizerBase | None, split: Split, examples: int, seed: int) -> PromptBatch:
        """Draw at most `examples` pairs of one split; the others of the same clean prompt are in the same split.

        Raises:
            UsageError: there is no tokenizer, or it does not know the program's words.
        """
        check_request(split, examples)
        tokenizer = require_tokenizer(tokenizer, self)
        known = tokenizer.get_vocab()
        if missing := [word for word in (BOS, *self._program.words) if word not in known]:
            raise UsageError(
                f"This tokenizer does not know {missing[0]!r}, a word of the program {self.program!r}.",
                "Use the model and the tokenizer of the known circuit.",
            )

        def ids(words: Sequence[str]) -> list[int]:
            return [known[word] for word in words]

        pairs = self.pairs(split, examples, seed)
        return PromptBatch.from_ids(
            [ids([BOS, *pair.clean]) for pair in pairs],
            [ids([BOS, *pair.corrupted]) for pair in pairs],
            [ids(pair.answers) for pair in pairs],
            [ids(pair.wrong_answers) for pair in pairs],
            notes=[f"The task has {len(pairs)} prompts, of {examples} asked for."] * (len(pairs) < examples),
            templates=[pair.template for pair in pairs if pair.template],
        )

    def pairs(self, split: Split, examples: int, seed: int) -> list[Pair]:
        """Draw what `prompts` makes ids of."""
        found: dict[tuple[str, ...], Pair] = {}
        for pair in self._draw(seed, examples):
            if _split_of(pair, seed) == split:
                found.setdefault(tuple(pair.clean), pair)
            if len(found) == examples:
                break
        return list(found.values())

    def _draw(self, seed: int, examples: int) -> Iterator[Pair]:
        rng = Random(f"{self.program} {seed}")
        for _ in range(_TRIES * (examples + 10)):
            yield self._program.draw(rng)


def _split_of(pair: Pair, seed: int) -> Split:
    digest = hashlib.sha256(f"{seed} {' '.join(pair.clean)}".encode()).digest()
    order: tuple[Split, ...] = ("train", "train", "validation", "test")
    return order[digest[0] % 4]
