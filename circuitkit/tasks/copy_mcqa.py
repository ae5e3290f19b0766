"""Multiple choice whose answer stands in the prompt: "A box is brown. What color is the box? A. gray B. brown" -> " B".

The copied colors of Wiegreffe et al. 2024, "Answer, Assemble, Ace" (arXiv 2407.15018), a task of MIB (Mueller et al.
2025, arXiv 2504.13151). What differs: words are ours, and each object may have every color.
"""

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from circuitkit.tasks.base import Split, check_choice
from circuitkit.tasks.drawn import Arrangements, DrawnTask, Frame, Pair, check_words, deal, find_tokens, known_templates
from circuitkit.tasks.word_lists import COLORS, THINGS

Corruption = Literal["position", "letters"]

TEMPLATE = (
    "Question: A {thing} is {color}. What color is the {thing}?\n{letters[0]}. {colors[0]}\n{letters[1]}. {colors[1]}\n"
    "{letters[2]}. {colors[2]}\n{letters[3]}. {colors[3]}\nAnswer:"
)
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_CHOICES = 4


class CopyMCQA(DrawnTask):
    """Multiple choice whose answer stands in the prompt (Wiegreffe et al. 2024).

    The choices are A to D, and the wrong answers are the other three: chance is one quarter.

    Args:
        corruption: how the corrupted prompt differs. `position`: the right choice stands at another place, and so has
            another letter; `letters`: the choices have other letters, chosen at random.

    Raises:
        UsageError: there is no such corruption.
    """

    def __init__(self, corruption: Corruption = "position") -> None:
        check_choice(self, "corruption", corruption, Corruption)
        self.corruption = corruption

    def frames(self, tokenizer: PreTrainedTokenizerBase, split: Split, seed: int) -> list[Frame]:
        """Make a frame for each place of the right choice."""
        lists = {"objects": THINGS, "colors": COLORS, "letters": LETTERS}
        known = {kind: find_tokens(tokenizer, candidates) for kind, candidates in lists.items()}
        known["letters"] = _letters(tokenizer, known["letters"])
        needed = {"objects": 4, "colors": _CHOICES, "letters": 2 * _CHOICES}
        check_words(self, {kind: len(found) for kind, found in known.items()}, needed)
        colors, letters = list(known["colors"]), list(known["letters"])
        things = list(known["objects"])
        filling = {"thing": things[0], "color": colors[0], "colors": colors, "letters": letters}
        known_templates(self, tokenizer, {"": TEMPLATE}, filling)
        own = deal(things, self, split, seed)
        return [
            Frame(letters[place], [own, Arrangements(colors, _CHOICES)], partial(self._pair, known["letters"], place))
            for place in range(_CHOICES)
        ]

    def _pair(self, tokens: dict[str, int], place: int, chosen: Sequence[Any], rng: Random) -> Pair:
        thing, colors = chosen
        letters = list(tokens)[:_CHOICES]
        other_colors, other_letters = list(colors), letters
        if self.corruption == "position":
            other = rng.choice([number for number in range(_CHOICES) if number != place])
            other_colors[place], other_colors[other] = other_colors[other], other_colors[place]
        else:
            other_letters = rng.sample(list(tokens)[_CHOICES:], _CHOICES)
        fill = partial(TEMPLATE.format, thing=thing, color=colors[place])
        return Pair(
            fill(colors=colors, letters=letters),
            fill(colors=other_colors, letters=other_letters),
            [tokens[letters[place]]],
            [tokens[letter] for number, letter in enumerate(letters) if number != place],
        )


def _letters(tokenizer: PreTrainedTokenizerBase, tokens: dict[str, int]) -> dict[str, int]:
    """Return the letters that are one token at the beginning of a line too, where the choices stand."""
    before = len(tokenizer.encode("\n", add_special_tokens=False))
    return {
        letter: token
        for letter, token in tokens.items()
        if len(tokenizer.encode(f"\n{letter}", add_special_tokens=False)) == before + 1
    }
