"""Induction: random tokens that are repeated, "A B C D E A B C" -> "D".

Olsson et al. 2022, "In-context Learning and Induction Heads" (arXiv 2209.11895); a task of Conmy et al. 2023 (arXiv
2304.14997), who took repeated text from OpenWebText. Here the tokens are words that are drawn at random. Their order
carries no meaning, so that only copying can be right.

How prompts are drawn: the vocabulary's words are dealt among the splits by the seed, and a prompt has different words
of its split, followed by the first half of them.
"""

import re
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from circuitkit.errors import UsageError
from circuitkit.tasks.base import Split, check_choice
from circuitkit.tasks.drawn import Arrangements, DrawnTask, Frame, Pair, check_words, deal
from circuitkit.tasks.text import encode

Corruption = Literal["random", "swap"]
_WORD = re.compile(r"[ Ġ▁][A-Za-z]+")
"""A token that begins with a space, as vocabularies write it: byte-level BPE, SentencePiece, or plainly."""
_SHARE = 4
"""The smallest splits have a quarter of the words."""


class Induction(DrawnTask):
    """The continuation of a repeated random sequence (Olsson et al. 2022).

    The wrong answers are the other tokens of the sequence: chance is 1 / length.

    Args:
        corruption: how the corrupted prompt differs. `random`: all tokens are others, and nothing is repeated; `swap`:
            only the last token, which is another of the sequence, so that another token follows it.
        length: tokens of the sequence; half of them are repeated.

    Raises:
        UsageError: there is no such corruption, or the length is below 4.
    """

    def __init__(self, corruption: Corruption = "random", length: int = 10) -> None:
        check_choice(self, "corruption", corruption, Corruption)
        if type(length) is not int or length < 4:
            raise UsageError(f"length={length!r} is not a number from 4.", "Give one such as 10.")
        self.corruption = corruption
        self.length = length

    def frames(self, tokenizer: PreTrainedTokenizerBase, split: Split, seed: int) -> list[Frame]:
        """Make the only frame: all sequences of the split's words."""
        words = sorted(token for piece, token in tokenizer.get_vocab().items() if _WORD.fullmatch(piece))
        most = 2 * self.length + self.length // 2  # of a random pair
        check_words(self, {"words": len(words)}, {"words": _SHARE * most})
        front = _special_tokens_in_front(tokenizer, words[0])
        own = deal(words, self, split, seed)
        return [Frame("repeated", [Arrangements(own, self.length)], partial(self._pair, front, own))]

    def _pair(self, front: list[int], words: list[int], chosen: Sequence[Any], rng: Random) -> Pair:
        sequence = list(chosen[0])
        half = self.length // 2
        clean = [*sequence, *sequence[:half]]
        answer = sequence[half]
        if self.corruption == "swap":
            others = [token for place, token in enumerate(sequence[:-1]) if place != half - 1]
            corrupted = [*clean[:-1], rng.choice(others)]
        else:
            drawn = rng.sample(words, len(clean) + self.length)
            corrupted = [token for token in drawn if token not in sequence][: len(clean)]
        wrong = [token for token in sequence if token != answer]
        return Pair([*front, *clean], [*front, *corrupted], [answer], wrong)


def _special_tokens_in_front(tokenizer: PreTrainedTokenizerBase, word: int) -> list[int]:
    text = str(tokenizer.decode([word]))
    (ids,) = encode(tokenizer, [text])
    return ids[: len(ids) - len(tokenizer.encode(text, add_special_tokens=False))]
