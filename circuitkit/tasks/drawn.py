"""What tasks share that draw their prompts from word lists of ours: words by split, templates, and how pairs are drawn.

How prompts are drawn:
1. Keep the words that are one token, so that all prompts of a template have the same number of tokens, and the
   templates that have no word unknown to the tokenizer.
2. Deal the words of one kind, such as nouns, among the splits, by the seed: half to train, a quarter to validation, a
   quarter to test. Prompts of a split, clean and corrupted, use only its own of them, so that no two splits share one.
3. A `Frame` numbers all ways to fill in one template. Take the frames in turn, each without repetition.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from random import Random
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError
from circuitkit.tasks.base import Split, Task, check_request, check_supply, join_counts, require_tokenizer
from circuitkit.tasks.text import continuation, encode

T = TypeVar("T")
_REMEDY = "Use a model with a larger vocabulary, or prompts of your own: the task prompt_file."


@dataclass(frozen=True)
class Pair:
    """One pair of prompts, as text or as token ids, with the tokens that are right and wrong after the clean one."""

    clean: str | list[int]
    corrupted: str | list[int]
    answers: Sequence[int]
    wrong_answers: Sequence[int]


@dataclass(frozen=True)
class Arrangements:
    """All ordered choices of `size` different items, numbered; there may be more than fit into memory."""

    items: Sequence[Any]
    size: int

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        left, found = list(self.items), []
        for _ in range(self.size):
            number, place = divmod(number, len(left))
            found.append(left.pop(place))
        return tuple(found)


@dataclass(frozen=True)
class Frame:
    """A template as all ways to fill it in, numbered.

    Attributes:
        label: of the template; figures are grouped by it.
        slots: for each slot what may fill it. Other choices give other clean prompts.
        pair: makes the pair of one choice per slot, and draws whatever else it needs.
    """

    label: str
    slots: Sequence[Sequence[Any] | Arrangements]
    pair: Callable[[Sequence[Any], Random], Pair]

    @property
    def count(self) -> int:
        """Return how many ways there are."""
        return math.prod(map(_count, self.slots))

    def make(self, number: int, rng: Random) -> Pair:
        """Make the pair of one way."""
        chosen = []
        for slot in self.slots:
            number, place = divmod(number, _count(slot))
            chosen.append(slot[place])
        return self.pair(chosen, rng)


class DrawnTask(Task):
    """A task whose prompts are drawn from frames; see the module."""

    @abstractmethod
    def frames(self, tokenizer: PreTrainedTokenizerBase, split: Split, seed: int) -> list[Frame]:
        """Return the frames of a split, in a fixed order, with words that are one token each.

        Raises:
            UsageError: too few words are, or the tokenizer knows no template.
        """

    def available(self, tokenizer: PreTrainedTokenizerBase | None, split: Split, seed: int) -> int:
        """Count the different prompts of a split; see `Task`."""
        check_request(split, 1)
        return sum(frame.count for frame in self.frames(require_tokenizer(tokenizer, self), split, seed))

    def prompts(self, tokenizer: PreTrainedTokenizerBase | None, split: Split, examples: int, seed: int) -> PromptBatch:
        """Make at most `examples` pairs of one split, fewer only if there are no more; see the module and `Task`."""
        check_request(split, examples)
        tokenizer = require_tokenizer(tokenizer, self)
        frames = self.frames(tokenizer, split, seed)
        name = type(self).__name__
        notes = check_supply(name, split, examples, sum(frame.count for frame in frames))
        rng = Random(f"{name} {split} {seed}")
        drawn = list(islice(_draw(rng.sample(frames, len(frames)), examples, rng), examples))
        pairs = [pair for _, pair in drawn]
        return PromptBatch.from_ids(
            _to_ids(tokenizer, [pair.clean for pair in pairs]),
            _to_ids(tokenizer, [pair.corrupted for pair in pairs]),
            [list(pair.answers) for pair in pairs],
            [list(pair.wrong_answers) for pair in pairs],
            pad_id=tokenizer.pad_token_id,
            notes=notes,
            templates=[label for label, _ in drawn],
        )


def deal(items: Sequence[T], task: Task, split: Split, seed: int) -> list[T]:
    """Return the items of a split: half of them for train, a quarter each for validation and test."""
    shuffled = Random(f"{type(task).__name__} words {seed}").sample(items, len(items))
    quarter = len(items) // 4
    parts = {"validation": slice(quarter), "test": slice(quarter, 2 * quarter), "train": slice(2 * quarter, None)}
    return shuffled[parts[split]]


def find_tokens(tokenizer: PreTrainedTokenizerBase, words: Iterable[str]) -> dict[str, int]:
    """Return the token of each word that is one token with its leading space."""
    found = {word: continuation(tokenizer, f" {word}") for word in words}
    return {word: token for word, token in found.items() if token is not None}


def check_words(task: Task, found: Mapping[str, int], needed: Mapping[str, int]) -> None:
    """Compare how many words are one token with how many a task needs, by kind.

    Raises:
        UsageError: there are too few of some kind.
    """
    if any(found[kind] < count for kind, count in needed.items()):
        raise UsageError(
            f"{type(task).__name__} finds {join_counts(found)} that are one token for this tokenizer, and needs "
            f"{join_counts(needed)}.",
            _REMEDY,
        )


def known_templates(
    task: Task, tokenizer: PreTrainedTokenizerBase, templates: Mapping[str, str], filling: Mapping[str, Any]
) -> dict[str, str]:
    """Return the templates of whose words the tokenizer knows every one, by label.

    Args:
        task: for the message.
        tokenizer: of the model.
        templates: by label.
        filling: what may fill each slot.

    Raises:
        UsageError: there is none.
    """
    unknown = tokenizer.unk_token_id
    texts = {label: template.format(**filling) for label, template in templates.items()}
    known = {
        label: template
        for label, template in templates.items()
        if unknown is None or unknown not in tokenizer.encode(texts[label], add_special_tokens=False)
    }
    if not known:
        raise UsageError(f"This tokenizer does not know some word of every {type(task).__name__} template.", _REMEDY)
    return known


def _count(slot: Sequence[Any] | Arrangements) -> int:
    return math.perm(len(slot.items), slot.size) if isinstance(slot, Arrangements) else len(slot)


def _draw(frames: Sequence[Frame], examples: int, rng: Random) -> Iterator[tuple[str, Pair]]:
    """Yield labelled pairs from the frames in turn, until all frames are used up."""
    numbers = [_draw_numbers(frame.count, min(frame.count, examples), rng) for frame in frames]
    for turn in zip_longest(*numbers):
        for frame, number in zip(frames, turn, strict=True):
            if number is not None:  # this frame is not used up
                yield frame.label, frame.make(number, rng)


def _draw_numbers(count: int, wanted: int, rng: Random) -> list[int]:
    """Draw different numbers below `count`, which may be too large for a range."""
    if count <= 2**31:
        return rng.sample(range(count), wanted)
    found: dict[int, None] = {}
    while len(found) < wanted:
        found[rng.randrange(count)] = None
    return list(found)


def _to_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str | list[int]]) -> list[list[int]]:
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    return encode(tokenizer, texts) if texts else [list(prompt) for prompt in prompts if not isinstance(prompt, str)]
