"""Programs that count or compare, by a head that averages and an MLP that reads the result."""

import itertools
from collections.abc import Sequence
from random import Random

from circuitkit.truth.program import Program
from circuitkit.truth.steps import (
    BOS,
    HARD,
    TOKEN,
    Attend,
    Compute,
    Match,
    Output,
    Step,
    Unit,
    all_of,
    at_least,
    constant_query,
    copy,
)
from circuitkit.truth.task import Pair


def steps_up(reads: dict[tuple[str, str], float], levels: Sequence[tuple[float, str]]) -> tuple[Unit, ...]:
    """Make units that write 1 to the symbol of the highest level that a weighted sum reaches.

    Args:
        reads: the weights by coordinate.
        levels: rising, each with its symbol. The first one is always reached; each of the others is reached from it
            on, and not up to 1/2 below.
    """
    units = [Unit({}, 1.0, {levels[0][1]: 1.0})]
    for (_, below), (level, symbol) in itertools.pairwise(levels):
        units += at_least(reads, level, {symbol: 1.0, below: -1.0})
    return tuple(units)


class GreaterThan(Program):
    """`the war from 4 on to` -> any digit above 4.

    After Hanna et al. 2023 (arXiv 2305.00586): a head brings the number to the end, where an MLP raises all greater
    ones.
    """

    name = "greater_than"
    digits = tuple("0123456789")
    fillers = ("the", "war", "from", "on")
    words = (*digits, *fillers, "to")
    length = 8

    def steps(self) -> Sequence[Step]:
        """See the base class."""
        number = Match(None, TOKEN, constant_query(self.digits))
        head = Attend("number", TOKEN, copy(self.digits), to="number", matches=(number,))
        units = [
            all_of([("number", digit)], dict.fromkeys(self.digits[int(digit) + 1 :], 1.0)) for digit in self.digits[:-1]
        ]
        return head, Compute("greater", tuple(units), to="greater")

    def outputs(self) -> Sequence[Output]:
        """See the base class."""
        return (Output("greater", copy(self.digits[1:])),)

    def draw(self, rng: Random) -> Pair:
        """See the base class; the number stands anywhere."""
        number, other = rng.sample(range(len(self.digits) - 1), 2)
        clean, corrupted = self._prompt(rng, number), self._prompt(rng, other)
        while clean.index(self.digits[number]) == corrupted.index(self.digits[other]):
            corrupted = self._prompt(rng, other)
        return Pair(clean, corrupted, self.digits[number + 1 :], self.digits[: number + 1])

    def _prompt(self, rng: Random, number: int) -> list[str]:
        words = [rng.choice(self.fillers) for _ in range(self.length - 3)]
        words.insert(rng.randint(0, len(words)), self.digits[number])
        return [*words, "to"]


class BracketDepth(Program):
    """`( . ( ) . =` -> `1`: how many brackets are open.

    Two heads attend to all positions evenly, and so write the share of opening and of closing brackets. An MLP turns
    the difference into a digit.
    """

    name = "bracket_depth"
    depths = tuple("0123")
    words = ("(", ")", ".", "=", *depths)
    length = 12

    def steps(self) -> Sequence[Step]:
        """See the base class."""
        opening = Attend("opening", TOKEN, {("(", "share"): 1.0}, to="opening")
        closing = Attend("closing", TOKEN, {(")", "share"): 1.0}, to="closing")
        difference = {("opening", "share"): float(self.length), ("closing", "share"): -float(self.length)}
        levels = [(int(depth) - 0.25, depth) for depth in self.depths]
        return opening, closing, Compute("depth", steps_up(difference, levels), to="depth")

    def outputs(self) -> Sequence[Output]:
        """See the base class."""
        return (Output("depth", copy(self.depths)),)

    def draw(self, rng: Random) -> Pair:
        """See the base class."""
        depth, other = rng.sample(range(len(self.depths)), 2)
        return Pair(self._prompt(rng, depth), self._prompt(rng, other), [self.depths[depth]], [self.depths[other]])

    def _prompt(self, rng: Random, depth: int) -> list[str]:
        size = self.length - 2
        closed = rng.randint(0, (size - depth) // 2)
        brackets = [*"(" * (depth + closed), *")" * closed, *"." * (size - depth - 2 * closed)]
        while True:
            rng.shuffle(brackets)
            heights = [brackets[:end].count("(") - brackets[:end].count(")") for end in range(size + 1)]
            if min(heights) >= 0:
                return [*brackets, "="]


class FractionOfPrevious(Program):
    """`x y x x z y x z %` -> `50%`: the share of `x` among the tokens before.

    A head attends evenly to all tokens but BOS and the last, and so writes the share; an MLP turns it into a word.
    After `frac_prevs` of Lindner et al. 2023 (Tracr, arXiv 2301.05062), whose output is the share itself.
    """

    name = "fraction_of_previous"
    shares = ("0%", "25%", "50%", "75%", "100%")
    words = ("x", "y", "z", "%", *shares)
    length = 10

    def steps(self) -> Sequence[Step]:
        """See the base class."""
        no_letters = Match(None, TOKEN, constant_query([BOS, "%"], -HARD), fixed=True)
        share = Attend("share", TOKEN, {("x", "share"): 1.0}, to="share", matches=(no_letters,))
        levels = [(2 * number - 0.75, word) for number, word in enumerate(self.shares)]
        return share, Compute("words", steps_up({("share", "share"): self.length - 2.0}, levels), to="words")

    def outputs(self) -> Sequence[Output]:
        """See the base class."""
        return (Output("words", copy(self.shares)),)

    def draw(self, rng: Random) -> Pair:
        """See the base class."""
        share, other = rng.sample(range(len(self.shares)), 2)
        return Pair(self._prompt(rng, share), self._prompt(rng, other), [self.shares[share]], [self.shares[other]])

    def _prompt(self, rng: Random, share: int) -> list[str]:
        others = self.length - 2 - 2 * share
        letters = [*"x" * (2 * share), *(rng.choice("yz") for _ in range(others))]
        rng.shuffle(letters)
        return [*letters, "%"]
