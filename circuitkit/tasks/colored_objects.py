"""Colored objects: three things of three colors, and the question which color one of them has.

Merullo et al. 2024, "Circuit Component Reuse Across Tasks in Transformer Language Models" (arXiv 2310.08744), after a
task of BIG-bench. Words are ours. The prompt begins with one answered question, always the same.
"""

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from circuitkit.tasks.base import Split, check_choice
from circuitkit.tasks.drawn import Arrangements, DrawnTask, Frame, Pair, check_words, deal, find_tokens, known_templates
from circuitkit.tasks.word_lists import COLORS, THINGS

Corruption = Literal["question", "colors"]

_QUESTION = (
    "Question: On the {place}, there is a {colors[0]} {things[0]}, a {colors[1]} {things[1]}, and a {colors[2]} "
    "{things[2]}. What color is the {asked}?\nAnswer:"
)
_EXAMPLE = _QUESTION.format(
    place="table", colors=("gold", "gray", "cream"), things=("plant", "jar", "letter"), asked="jar"
)
PLACES = ("floor", "desk", "shelf", "counter")
"""None of them is an object, too."""
_THREE = 3


class ColoredObjects(DrawnTask):
    """Which color an object has, of three that the prompt lists (Merullo et al. 2024).

    The wrong answers are the other two colors: chance is one third.

    Args:
        corruption: how the corrupted prompt differs. `question`: it asks for another of the three objects; `colors`:
            all three colors are others, so that it does not contain the answer.

    Raises:
        UsageError: there is no such corruption.
    """

    def __init__(self, corruption: Corruption = "question") -> None:
        check_choice(self, "corruption", corruption, Corruption)
        self.corruption = corruption

    def frames(self, tokenizer: PreTrainedTokenizerBase, split: Split, seed: int) -> list[Frame]:
        """Make a frame for each of the places where the objects are."""
        things, colors = list(find_tokens(tokenizer, THINGS)), find_tokens(tokenizer, COLORS)
        check_words(self, {"objects": len(things), "colors": len(colors)}, {"objects": 12, "colors": 6})
        wanted = {place: f"{_EXAMPLE} gray\n{_QUESTION.replace('{place}', place)}" for place in PLACES}
        filling: dict[str, Any] = {"colors": list(colors), "things": things, "asked": things[0]}
        templates = known_templates(self, tokenizer, wanted, filling)
        own = deal(things, self, split, seed)
        return [
            Frame(
                place,
                [Arrangements(own, _THREE), Arrangements(list(colors), _THREE), range(_THREE)],
                partial(self._pair, template, colors),
            )
            for place, template in templates.items()
        ]

    def _pair(self, template: str, tokens: dict[str, int], chosen: Sequence[Any], rng: Random) -> Pair:
        things, colors, asked = chosen
        answer = colors[asked]
        other_colors, other_asked = colors, asked
        if self.corruption == "colors":
            other_colors = rng.sample([color for color in tokens if color not in colors], _THREE)
        else:
            other_asked = rng.choice([place for place in range(_THREE) if place != asked])
        return Pair(
            template.format(things=things, colors=colors, asked=things[asked]),
            template.format(things=things, colors=other_colors, asked=things[other_asked]),
            [tokens[answer]],
            [tokens[color] for color in colors if color != answer],
        )
