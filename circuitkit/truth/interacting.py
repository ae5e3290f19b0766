"""Programs whose parts interact: circuits that share heads, a head with a backup, and a head that works against one."""

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from circuitkit.truth.copying import LETTERS, previous
from circuitkit.truth.program import Program
from circuitkit.truth.steps import (
    HARD,
    TOKEN,
    Attend,
    Compute,
    Match,
    Output,
    Step,
    all_of,
    at_least,
    constant_query,
    copy,
)
from circuitkit.truth.task import Pair


def induction(name: str, to: str, weight: float = 1.0) -> Attend:
    """Make an induction head, which copies what followed the present token before."""
    match = Match(TOKEN, "previous", copy(LETTERS, HARD))
    return Attend(name, TOKEN, copy(LETTERS, weight), to=to, matches=(match,))


class _WithInduction(Program):
    """Draws prompts of induction: letters, then one of them again."""

    context: ClassVar[int] = 7

    def repeat(self, rng: Random, unlike: Sequence[str] = ()) -> tuple[list[str], str]:
        """Draw a prompt, whose last letter is not in `unlike`, and what followed that letter."""
        while True:
            context = rng.sample(LETTERS, self.context)
            place = rng.randrange(self.context - 2)
            if context[place] not in unlike and context[place + 1] not in unlike:
                return [*context, context[place]], context[place + 1]


class SharedHeads(_WithInduction):
    """`copy d a c b a` -> `c`, but `next d a c b a` -> `d`, the letter after c: two circuits that share their heads.

    Both use the same previous-token and induction heads. The first copies the letter to the logits. The second is an
    MLP that reads the letter and, by a head, the first word: it takes the letter away and adds the next one.
    """

    name = "shared_heads"
    modes = ("copy", "next")
    words = (*LETTERS, *modes)
    length = 10

    def steps(self) -> Sequence[Step]:
        """See the base class."""
        of_modes = Match(None, TOKEN, constant_query(self.modes))
        mode = Attend("mode", TOKEN, copy(["next"]), to="mode", matches=(of_modes,))
        units = [
            all_of([("found", letter), ("mode", "next")], {_after(letter): 1.0, letter: -1.0}) for letter in LETTERS
        ]
        return previous(), mode, induction("induction", "found"), Compute("next", tuple(units), to="changed")

    def outputs(self) -> Sequence[Output]:
        """See the base class."""
        return Output("found", copy(LETTERS)), Output("changed", copy(LETTERS))

    def draw(self, rng: Random) -> Pair:
        """See the base class; the mode stands first, or before the last letter."""
        (clean, letter), first = self.repeat(rng), rng.random() < 0.5
        corrupted, _ = self.repeat(rng, unlike=[clean[-1], letter])
        mode, other = rng.sample(self.modes, 2)
        clean.insert(0 if first else -1, mode)
        corrupted.insert(-1 if first else 0, other)
        answer, wrong = (letter, _after(letter)) if mode == "copy" else (_after(letter), letter)
        return Pair(clean, corrupted, [answer], [wrong], template=mode)


def _after(letter: str) -> str:
    return LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)]


class Backup(_WithInduction):
    """Induction by two heads, each of which is enough: an MLP writes a letter that either of them has found.

    Removing any one edge of one head changes nothing. A circuit needs one of the two, whichever.
    """

    name = "backup"
    nothing = "-"
    words = (*LETTERS, nothing)
    length = 9

    def steps(self) -> Sequence[Step]:
        """See the base class."""
        units = [unit for letter in LETTERS for unit in at_least({("found", letter): 1.0}, 0.75, {letter: 1.0})]
        heads = (induction(name, "found") for name in ("primary", "backup"))
        return previous(), *heads, Compute("either", tuple(units), to="answer")

    def outputs(self) -> Sequence[Output]:
        """See the base class."""
        return (Output("answer", copy(LETTERS)),)

    def copies(self) -> Sequence[Sequence[str]]:
        """Name the two heads."""
        return (("primary", "backup"),)

    def draw(self, rng: Random) -> Pair:
        """See the base class; the wrong answer is a word that occurs nowhere."""
        clean, answer = self.repeat(rng)
        corrupted, _ = self.repeat(rng, unlike=[clean[-1], answer])
        return Pair(clean, corrupted, [answer], [self.nothing])


class NegativeHead(_WithInduction):
    """Induction with a head that works against it: removing an edge of that head makes the answer's logit larger.

    The induction head writes the letter twofold. A negative head attends from what was found to that letter, and takes
    half of it away, as copy suppression does (McDougall et al. 2023, arXiv 2310.04625).
    """

    name = "negative_head"
    words = LETTERS
    length = 9

    def steps(self) -> Sequence[Step]:
        """See the base class."""
        match = Match("found", TOKEN, copy(LETTERS, HARD / 2))
        negative = Attend("negative", TOKEN, copy(LETTERS, -1.0), to="suppressed", matches=(match,))
        return previous(), induction("induction", "found", 2.0), negative

    def outputs(self) -> Sequence[Output]:
        """See the base class."""
        return Output("found", copy(LETTERS)), Output("suppressed", copy(LETTERS))

    def draw(self, rng: Random) -> Pair:
        """See the base class."""
        clean, answer = self.repeat(rng)
        corrupted, wrong = self.repeat(rng, unlike=[clean[-1], answer])
        return Pair(clean, corrupted, [answer], [wrong])
