'''Docstrings: the argument that is documented next. The answer to this prompt is " files".

    def port(self, load, size, files, last):
        """oil column piece

        :param load: crime population
        :param size: unit army
        :param

Heimersheim and Janiak 2023, "A circuit for Python docstrings in a 4-layer attention-only transformer" (LessWrong). What
differs: words are ours, the arguments are dealt among the splits, and the wrong answers are the function's other
arguments.
'''

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from circuitkit.tasks.base import Split, check_choice
from circuitkit.tasks.drawn import Arrangements, DrawnTask, Frame, Pair, check_words, deal, find_tokens, known_templates

Corruption = Literal["random", "docstring"]

TEMPLATE = '''def {function}(self, {a}, {b}, {c}, {d}):
    """{words[0]} {words[1]} {words[2]}

    :param {first}: {words[3]} {words[4]}
    :param {second}: {words[5]} {words[6]}
    :param'''
FUNCTIONS = ("port", "run", "call", "make", "check", "start", "build", "parse", "update", "handle", "move", "get")
ARGUMENTS = tuple(
    """load size files last name text path mode value key index count line word page color shape file table list user
    group order date time code level state type result data title label target source event image field method model
    option filter prefix column row node parent child start end limit offset width height weight price token message
    status number port host""".split()  # noqa: SIM905
)
WORDS = tuple(
    """oil piece crime population unit army river plan church garden paper market moment reason ground letter winter
    summer street doctor music bridge corner season village island forest animal battle player member police train
    glass stone water metal sugar bread fruit silver cotton leather engine rocket planet camera guitar""".split()  # noqa: SIM905
)
_DOCUMENTED, _DESCRIBED = 2, 7


class Docstring(DrawnTask):
    """The argument that a docstring documents next (Heimersheim and Janiak 2023).

    Args:
        corruption: how the corrupted prompt differs. `random`: the arguments are others, and those in the docstring are
            none of the function's; `docstring`: only the arguments in the docstring are others, so that nothing says
            which comes next.

    Raises:
        UsageError: there is no such corruption.
    """

    def __init__(self, corruption: Corruption = "random") -> None:
        check_choice(self, "corruption", corruption, Corruption)
        self.corruption = corruption

    def frames(self, tokenizer: PreTrainedTokenizerBase, split: Split, seed: int) -> list[Frame]:
        """Make the only frame: every function with every four arguments of the split, in any order."""
        lists = {"arguments": ARGUMENTS, "functions": FUNCTIONS, "words": WORDS}
        known = {kind: find_tokens(tokenizer, candidates) for kind, candidates in lists.items()}
        # A random pair has four arguments, four others, and two more
        needed = {"arguments": 40, "functions": 1, "words": _DESCRIBED}
        check_words(self, {kind: len(found) for kind, found in known.items()}, needed)
        words, functions = list(known["words"]), list(known["functions"])
        names = dict.fromkeys(("a", "b", "c", "d", "first", "second"), next(iter(known["arguments"])))
        filling = {"function": functions[0], "words": words, **names}
        known_templates(self, tokenizer, {"": TEMPLATE}, filling)
        own = deal(list(known["arguments"]), self, split, seed)
        pair = partial(self._pair, own, words, known["arguments"])
        return [Frame("four arguments", [functions, Arrangements(own, 4)], pair)]

    def _pair(
        self, arguments: list[str], words: list[str], tokens: dict[str, int], chosen: Sequence[Any], rng: Random
    ) -> Pair:
        function, own = chosen
        described = rng.sample(words, _DESCRIBED)
        others = rng.sample([argument for argument in arguments if argument not in own], len(own) + _DOCUMENTED)
        documented, others = others[:_DOCUMENTED], others[_DOCUMENTED:]

        def fill(names: Sequence[str], documented: Sequence[str]) -> str:
            slots = dict(zip("abcd", names, strict=True), first=documented[0], second=documented[1])
            return TEMPLATE.format(function=function, words=described, **slots)

        corrupted = fill(others if self.corruption == "random" else own, documented)
        answer = own[_DOCUMENTED]
        wrong = [tokens[argument] for argument in own if argument != answer]
        return Pair(fill(own, own[:_DOCUMENTED]), corrupted, [tokens[answer]], wrong)
