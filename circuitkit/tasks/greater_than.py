"""Greater-than: "The war lasted from the year 1732 to the year 17" -> a number above 32.

Hanna et al. 2023, "How does GPT-2 compute greater-than?" (arXiv 2305.00586). What differs: nouns are ours, and the
tokenizer decides between two forms.

- Two digits are one token, as in GPT-2: answers are all larger two-digit numbers, wrong answers that number and all
  smaller ones. Years that are split otherwise are left out.
- Every digit is a token, as in SmolLM2: the next token is the tens digit. Answers are the larger digits, wrong answers
  the smaller ones; the year's own tens digit is neither, since 1738 follows 1732.

In both, the corrupted prompt has 01 for the year's last two digits, after which nearly every number is larger.
"""

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

from transformers import PreTrainedTokenizerBase

from circuitkit.errors import UsageError
from circuitkit.tasks.base import Split
from circuitkit.tasks.drawn import DrawnTask, Frame, Pair, check_words, deal, find_tokens, known_templates
from circuitkit.tasks.text import continuation

TEMPLATE = "The {noun} lasted from the year {start} to the year {century}"
NOUNS = tuple(
    """war battle trip voyage project reign siege strike drought famine revolt campaign conflict journey tour exhibition
    festival marriage investigation trial study program course expedition mission crisis dispute construction occupation
    rebellion revolution partnership alliance friendship career contract flight storm debate empire regime dynasty truce
    treaty peace invasion migration experiment treatment training tradition movement protest boycott blockade lease
    ceremony operation recession boom decline plan search struggle feud rivalry competition""".split()  # noqa: SIM905
)
CENTURIES = tuple(range(11, 19))
_LOW = "01"


class GreaterThan(DrawnTask):
    """The year in which something ends is after the one in which it began (Hanna et al. 2023).

    For the authors' measure, the summed probability of the answers minus that of the wrong ones, there is the objective
    `probability_difference`, this task's default.
    """

    objective = "probability_difference"

    def frames(self, tokenizer: PreTrainedTokenizerBase, split: Split, seed: int) -> list[Frame]:
        """Make a frame for each century."""
        nouns = list(find_tokens(tokenizer, NOUNS))
        check_words(self, {"nouns": len(nouns)}, {"nouns": 4})
        answers = _two_digit_answers(tokenizer) or _one_digit_answers(tokenizer)
        years = {century: _years(tokenizer, century, answers) for century in CENTURIES} if answers else {}
        if not any(years.values()):
            raise UsageError(
                "GreaterThan needs years that are two tokens of two digits, or four of one, and this tokenizer splits "
                "them otherwise.",
                "Choose another model, or use prompts of your own: the task prompt_file.",
            )
        first = next(century for century, found in years.items() if found)
        filling = {"noun": nouns[0], "start": f"{first}{years[first][0]:02d}", "century": str(first)}
        known_templates(self, tokenizer, {"": TEMPLATE}, filling)
        own = deal(nouns, self, split, seed)
        return [
            Frame(str(century), [own, found], partial(_pair, century, answers))
            for century, found in years.items()
            if found
        ]


Answers = dict[int, tuple[list[int], list[int], list[int]]]
"""For the last two digits of a year: their tokens, and those that are right and wrong after the century."""


def _two_digit_answers(tokenizer: PreTrainedTokenizerBase) -> Answers:
    tokens = [continuation(tokenizer, f"{number:02d}", prompt="\n") for number in range(100)]
    known = [token for token in tokens if token is not None]
    if len(known) < len(tokens):
        return {}
    return {number: ([known[number]], known[number + 1 :], known[: number + 1]) for number in range(1, 99)}


def _one_digit_answers(tokenizer: PreTrainedTokenizerBase) -> Answers:
    tokens = [continuation(tokenizer, str(digit), prompt="\n") for digit in range(10)]
    known = [token for token in tokens if token is not None]
    if len(known) < len(tokens):
        return {}
    split = {number: divmod(number, 10) for number in (1, *range(10, 90))}
    return {
        number: ([known[tens], known[ones]], known[tens + 1 :], known[:tens]) for number, (tens, ones) in split.items()
    }


def _years(tokenizer: PreTrainedTokenizerBase, century: int, answers: Answers) -> list[int]:
    """Return the last two digits of a century's years, above 01, that are split as the answers are."""
    before = tokenizer.encode(f"year {century}", add_special_tokens=False)
    found = [
        number
        for number, (own, _, _) in answers.items()
        if tokenizer.encode(f"year {century}{number:02d}", add_special_tokens=False) == [*before, *own]
    ]
    return found[1:] if found[:1] == [int(_LOW)] else []


def _pair(century: int, answers: Answers, chosen: Sequence[Any], rng: Random) -> Pair:
    noun, number = chosen
    clean, corrupted = (
        TEMPLATE.format(noun=noun, start=f"{century}{last}", century=century) for last in (f"{number:02d}", _LOW)
    )
    _, right, wrong = answers[number]
    return Pair(clean, corrupted, right, wrong)
