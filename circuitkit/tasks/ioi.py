"""Indirect object identification: "Then, Mary and John went to the store. John gave a drink to" -> " Mary".

Wang et al. 2022, "Interpretability in the Wild" (arXiv 2211.00593). The prompt names two people, and one of
them (the subject) again; the other (the indirect object) is the answer.

How prompts are drawn:
1. Keep the names, places and objects that are one token with their leading space, and those of the fifteen templates
   that have no word unknown to the tokenizer.
2. Shuffle all unordered pairs of names by the seed, and divide them: half to train, a quarter to validation, a quarter
   to test. So no two splits of one seed share a prompt, for any templates and objects.
   With `held_out`, names and objects are divided first, also by the seed: a quarter of either is for test only, and the
   other names' pairs are divided between train and validation, two to one. So a circuit is tested on names and objects
   that no other split has.
3. Use the templates in random order, each in both orders of the names, in turn. For each prompt draw which name of the
   pair is the subject, a place and an object, without repetition within a template.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, islice, zip_longest
from random import Random
from typing import Literal

from transformers import PreTrainedTokenizerBase

from circuitkit.data.prompt_batch import PromptBatch
from circuitkit.errors import UsageError
from circuitkit.tasks.base import Split, Task, check_choice, check_request, check_supply, join_counts, require_tokenizer
from circuitkit.tasks.text import continuation, encode

Corruption = Literal["abc", "swap"]
Order = Literal["abba", "baba", "both"]

# The templates of Wang et al., appendix E.
TEMPLATES = (
    "Then, {first} and {second} went to the {place}. {subject} gave a {object} to",
    "Then, {first} and {second} had a lot of fun at the {place}. {subject} gave a {object} to",
    "Then, {first} and {second} were working at the {place}. {subject} decided to give a {object} to",
    "Then, {first} and {second} were thinking about going to the {place}. {subject} wanted to give a {object} to",
    "Then, {first} and {second} had a long argument, and afterwards {subject} said to",
    "After {first} and {second} went to the {place}, {subject} gave a {object} to",
    "When {first} and {second} got a {object} at the {place}, {subject} decided to give it to",
    "When {first} and {second} got a {object} at the {place}, {subject} decided to give the {object} to",
    "While {first} and {second} were working at the {place}, {subject} gave a {object} to",
    "While {first} and {second} were commuting to the {place}, {subject} gave a {object} to",
    "After the lunch, {first} and {second} went to the {place}. {subject} gave a {object} to",
    "Afterwards, {first} and {second} went to the {place}. {subject} gave a {object} to",
    "Then, {first} and {second} had a long argument. Afterwards {subject} said to",
    "The {place} {first} and {second} went to had a {object}. {subject} gave it to",
    "Friends {first} and {second} found a {object} at the {place}. {subject} gave it to",
)
NAMES = tuple(
    """Mary John James Robert Michael William David Richard Joseph Thomas Charles Christopher Daniel Matthew Anthony
    Mark Donald Steven Paul Andrew Joshua Kenneth Kevin Brian George Edward Ronald Timothy Jason Jeffrey Ryan Jacob
    Gary Nicholas Eric Jonathan Stephen Larry Justin Scott Brandon Benjamin Samuel Gregory Frank Alexander Patrick
    Jack Dennis Jerry Tyler Aaron Henry Peter Adam Nathan Kyle Simon Martin Lewis Oliver Harry Tom Sam Jim Bob
    Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Sarah Karen Lisa Nancy Margaret Sandra Ashley Kimberly
    Emily Donna Michelle Carol Amanda Melissa Deborah Stephanie Rebecca Laura Sharon Amy Angela Anna Emma Nicole
    Samantha Katherine Christine Helen Rachel Maria Heather Diane Julie Victoria Kelly Lauren Ruth Martha Alice Jane
    Kate Lucy Rose Claire Sophie Charlotte Grace""".split()  # noqa: SIM905 - a list literal would take one line per name
)
PLACES = ("store", "garden", "restaurant", "school", "hospital", "office", "house", "station")
OBJECTS = ("ring", "kiss", "bone", "basketball", "computer", "necklace", "drink", "snack")

# With eight names there are 28 pairs, and seven in the smallest split; a prompt and its `abc` version need five names.
_NEEDED = {"names": 8, "places": 2, "objects": 2}
_HELD_OUT = {"names": 5, "places": 0, "objects": 2}
"""What the test split needs of its own, besides what the others need."""


@dataclass(frozen=True)
class _Words:
    """The words that are one token each for the tokenizer, or those that a split may use; the usable templates."""

    names: list[str]
    places: list[str]
    objects: list[str]
    templates: list[str]


@dataclass(frozen=True)
class _Frame:
    """A template in one order of the names, as the sequence of all ways to fill it in."""

    template: str
    subject_first: bool
    pairs: list[tuple[str, str]]
    words: _Words

    @property
    def _sizes(self) -> tuple[int, int]:
        """Return the numbers of places and objects to choose from: 1 if the template has none."""
        return (
            len(self.words.places) if "{place}" in self.template else 1,
            len(self.words.objects) if "{object}" in self.template else 1,
        )

    def __len__(self) -> int:
        places, objects = self._sizes
        return len(self.pairs) * 2 * places * objects

    def __getitem__(self, index: int) -> tuple[str, str, str, str]:
        """Return answer, subject, place and object of the way number `index` to fill in the template."""
        places, objects = self._sizes
        index, thing = divmod(index, objects)
        index, place = divmod(index, places)
        index, swapped = divmod(index, 2)
        one, other = self.pairs[index]
        answer, subject = (other, one) if swapped else (one, other)
        return answer, subject, self.words.places[place], self.words.objects[thing]

    def render(self, answer: str, subject: str, again: str, place: str, thing: str) -> str:
        """Fill in the prompt; `again` is the name that comes last, the subject's own or another."""
        first, second = (subject, answer) if self.subject_first else (answer, subject)
        return self.template.format(first=first, second=second, subject=again, place=place, object=thing)


@dataclass(frozen=True)
class _Example:
    template: str
    clean: str
    corrupted: str
    answer: str
    wrong_answer: str


class IOI(Task):
    """Indirect object identification (Wang et al. 2022).

    Args:
        corruption: how the corrupted prompt differs. `abc`: three other names, so that it contains neither answer;
            `swap`: the other of the two names is the subject, so that the answer is the other one.
        order: which name comes first. `abba`: the answer; `baba`: the subject; `both`: each equally often.
        template: the number of one of the fifteen `TEMPLATES`, or None for all. The prompts of one template all have
            the same number of tokens.
        held_out: names and objects of the test split are in no prompt, clean or corrupted, of train and validation.
            For this, 13 names and 4 objects must be one token each.

    Raises:
        UsageError: an argument is none of these.
    """

    def __init__(
        self,
        corruption: Corruption = "abc",
        order: Order = "both",
        template: int | None = None,
        held_out: bool = False,
    ) -> None:
        check_choice(self, "corruption", corruption, Corruption)
        check_choice(self, "order", order, Order)
        if template is not None and template not in range(len(TEMPLATES)):
            raise UsageError(
                f"There is no IOI template {template!r}.", f"Choose one of 0 to {len(TEMPLATES) - 1}, or None for all."
            )
        if not isinstance(held_out, bool):
            raise UsageError(f"held_out={held_out!r} is neither True nor False.", "Give one of the two.")
        self.corruption = corruption
        self.order = order
        self.template = template
        self.held_out = held_out

    def available(self, tokenizer: PreTrainedTokenizerBase | None, split: Split, seed: int) -> int:
        """Count the different prompts of a split; see `Task`."""
        check_request(split, 1)
        words, pairs = self._supply(require_tokenizer(tokenizer, self), split, seed)
        return sum(map(len, self._frames(words, pairs)))

    def prompts(self, tokenizer: PreTrainedTokenizerBase | None, split: Split, examples: int, seed: int) -> PromptBatch:
        """Make at most `examples` pairs of one split, fewer only if there are no more; see the module and `Task`."""
        check_request(split, examples)
        tokenizer = require_tokenizer(tokenizer, self)
        words, pairs = self._supply(tokenizer, split, seed)
        rng = Random(f"ioi {split} {seed}")
        frames = self._frames(replace(words, templates=rng.sample(words.templates, len(words.templates))), pairs)
        notes = check_supply(type(self).__name__, split, examples, sum(map(len, frames)))
        drawn = list(islice(self._draw(frames, pairs, examples, rng), examples))

        def tokens(names: list[str]) -> list[int]:
            found = {name: continuation(tokenizer, f" {name}") for name in set(names)}
            return [token for name in names if (token := found[name]) is not None]

        return PromptBatch.from_ids(
            encode(tokenizer, [example.clean for example in drawn]),
            encode(tokenizer, [example.corrupted for example in drawn]),
            tokens([example.answer for example in drawn]),
            tokens([example.wrong_answer for example in drawn]),
            pad_id=tokenizer.pad_token_id,
            notes=notes,
            templates=[str(TEMPLATES.index(example.template)) for example in drawn],
        )

    def _supply(
        self, tokenizer: PreTrainedTokenizerBase, split: Split, seed: int
    ) -> tuple[_Words, list[tuple[str, str]]]:
        """Return the words that a split may use, and its pairs of names."""
        words = self._words(tokenizer)
        if not self.held_out:
            return words, _deal(words.names, seed)[split]
        rng = Random(f"ioi held out {seed}")
        names, own_names = _hold_out(words.names, _HELD_OUT["names"], rng)
        objects, own_objects = _hold_out(words.objects, _HELD_OUT["objects"], rng)
        if split == "test":
            return replace(words, names=own_names, objects=own_objects), list(combinations(own_names, 2))
        pairs = list(combinations(names, 2))
        rng.shuffle(pairs)
        third = len(pairs) // 3
        return replace(words, names=names, objects=objects), pairs[third:] if split == "train" else pairs[:third]

    def _words(self, tokenizer: PreTrainedTokenizerBase) -> _Words:
        kept: dict[str, list[str]] = {}
        for kind, candidates in (("names", NAMES), ("places", PLACES), ("objects", OBJECTS)):
            kept[kind] = [word for word in candidates if continuation(tokenizer, f" {word}") is not None]
        found = {kind: len(left) for kind, left in kept.items()}
        needed = {kind: count + self.held_out * _HELD_OUT[kind] for kind, count in _NEEDED.items()}
        if any(found[kind] < count for kind, count in needed.items()):
            why, instead = (" to hold some out", "held_out=False, ") if self.held_out else ("", "")
            raise UsageError(
                f"IOI finds {join_counts(found)} that are one token for this tokenizer, and needs {join_counts(needed)}"
                f"{why}.",
                f"Use {instead}a model with a larger vocabulary, or prompts of your own: the task prompt_file.",
            )
        words = _Words(kept["names"], kept["places"], kept["objects"], [])
        wanted = TEMPLATES if self.template is None else TEMPLATES[self.template : self.template + 1]
        for template in wanted:
            frame = _Frame(template, False, [(words.names[0], words.names[1])], words)
            answer, subject, place, thing = frame[0]
            text = frame.render(answer, subject, subject, place, thing)
            if tokenizer.unk_token_id not in tokenizer.encode(text, add_special_tokens=False):
                words.templates.append(template)
        if not words.templates:
            which = "every IOI template" if self.template is None else f"the IOI template {self.template}"
            raise UsageError(
                f"This tokenizer does not know some word of {which}.",
                "Choose another template, or use prompts of your own: the task prompt_file.",
            )
        return words

    def _frames(self, words: _Words, pairs: list[tuple[str, str]]) -> list[_Frame]:
        """Return every template in every order of the names."""
        if self.corruption == "abc":
            pairs = [pair for pair in pairs if any(map(set(pair).isdisjoint, pairs))]
        orders = {"abba": [False], "baba": [True], "both": [False, True]}[self.order]
        return [_Frame(template, first, pairs, words) for template in words.templates for first in orders]

    def _draw(
        self, frames: list[_Frame], pairs: list[tuple[str, str]], examples: int, rng: Random
    ) -> Iterator[_Example]:
        """Yield examples from the frames in turn, until all frames are used up."""
        choices = [rng.sample(range(len(frame)), min(len(frame), examples)) for frame in frames]
        for turn in zip_longest(*choices):
            for frame, index in zip(frames, turn, strict=True):
                if index is None:  # this frame is used up
                    continue
                answer, subject, place, thing = frame[index]
                replacement = answer, subject, answer
                if self.corruption == "abc":
                    replacement = _others({answer, subject}, frame.words.names, pairs, rng)
                clean = frame.render(answer, subject, subject, place, thing)
                yield _Example(frame.template, clean, frame.render(*replacement, place, thing), answer, subject)


def _deal(names: list[str], seed: int) -> dict[str, list[tuple[str, str]]]:
    """Divide all unordered pairs of names among the splits."""
    pairs = list(combinations(names, 2))
    Random(f"ioi pairs {seed}").shuffle(pairs)
    quarter = len(pairs) // 4
    return {"train": pairs[quarter:-quarter], "validation": pairs[:quarter], "test": pairs[-quarter:]}


def _hold_out(words: list[str], fewest: int, rng: Random) -> tuple[list[str], list[str]]:
    """Divide words into those of train and validation, and a quarter, at least `fewest`, for test."""
    shuffled = rng.sample(words, len(words))
    count = max(fewest, len(words) // 4)
    return shuffled[count:], shuffled[:count]


def _others(taken: set[str], names: list[str], pairs: list[tuple[str, str]], rng: Random) -> tuple[str, str, str]:
    """Draw three names that are not `taken`; the first two are a pair of the split, so that splits share no prompt."""
    start = rng.randrange(len(pairs))
    while not taken.isdisjoint(pair := pairs[start % len(pairs)]):
        start += 1
    first, second = rng.sample(pair, 2)
    return first, second, rng.choice([name for name in names if name not in taken and name not in pair])
