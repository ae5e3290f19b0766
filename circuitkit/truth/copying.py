"""Programs that copy a token which they find by what stands near it: induction, lookup, reversal, duplicates."""

from collections.abc import Sequence
from random import Random

from circuitkit.truth.known_circuit import AblationName
from circuitkit.truth.program import Program
from circuitkit.truth.steps import HARD, TOKEN, Attend, Match, Output, Step, constant_query, copy
from circuitkit.truth.task import Pair

LETTERS = tuple("abcdefghij")


def previous(name: str = "previous", symbols: Sequence[str] = LETTERS) -> Attend:
    """Make a previous-token head, which writes the token before into a block of its own name."""
    return Attend(name, TOKEN, copy(symbols), to=name, offset=1)


class Induction(Program):
    """`d a c b e a` -> `c`: what followed the last token before.

    A previous-token head writes each token's predecessor; an induction head attends to the position whose predecessor
    is the present token, and copies its token (Olsson et al. 2022, arXiv 2209.11895).
    """

    name = "induction"
    words = LETTERS
    length = 9

    def steps(self) -> Sequence[Step]:
        """See the base class."""
        match = Match(TOKEN, "previous", copy(LETTERS, HARD))
        return previous(), Attend("induction", TOKEN, copy(LETTERS), to="found", matches=(match,))

    def outputs(self) -> Sequence[Output]:
        """See the base class."""
        return (Output("found", copy(LETTERS)),)

    def draw(self, rng: Random) -> Pair:
        """See the base class."""
        (clean, answer), (corrupted, wrong) = self._prompt(rng), self._prompt(rng)
        while wrong == answer or corrupted[-1] == clean[-1]:
            corrupted, wrong = self._prompt(rng)
        return Pair(clean, corrupted, [answer], [wrong])

    def _prompt(self, rng: Random) -> tuple[list[str], str]:
        context = rng.sample(LETTERS, self.length - 2)
        place = rng.randrange(len(context) - 2)
        return [*context, context[place]], context[place + 1]


class KeyValueLookup(Program):
    """`. b 3 a 1 . c 2 ? a =` -> `1`: the value of the key that is asked for, wherever the pairs stand.

    A previous-token head writes each token's predecessor; at `=`, that is the key, and at each value, its own key. A
    lookup head compares the two, at values only.
    """

    name = "key_value_lookup"
    keys, values, filler = tuple("abcdef"), tuple("123456"), tuple(".,;")
    words = (*keys, *values, *filler, "?", "=")
    length = 13

    def steps(self) -> Sequence[Step]:
        """See the base class."""
        same = Match("previous", "previous", copy(self.keys, HARD))
        at_values = Match(None, TOKEN, constant_query(self.values))
        lookup = Attend("lookup", TOKEN, copy(self.values), to="found", matches=(same, at_values))
        return previous(symbols=self.keys), lookup

    def outputs(self) -> Sequence[Output]:
        """See the base class."""
        return (Output("found", copy(self.values)),)

    def without_effect(self, ablation: AblationName) -> set[tuple[str, str]]:
        """On average over prompts, any place but the last may hold a value: enough to leave out the `=`."""
        return {("input", "lookup.k")} if ablation == "mean" else set()

    def draw(self, rng: Random) -> Pair:
        """See the base class."""
        clean, asked, answer = self._prompt(rng)
        corrupted, other, wrong = self._prompt(rng)
        while wrong == answer or other == asked:
            corrupted, other, wrong = self._prompt(rng)
        return Pair(clean, corrupted, [answer], [wrong])

    def _prompt(self, rng: Random) -> tuple[list[str], str, str]:
        pairs = list(zip(rng.sample(self.keys, 3), rng.sample(self.values, 3), strict=True))
        fillers = self.length - 1 - 2 * len(pairs) - 3
        parts: list[tuple[str, ...]] = [*pairs, *((rng.choice(self.filler),) for _ in range(fillers))]
        rng.shuffle(parts)
        asked, answer = rng.choice(pairs)
        return [*(word for part in parts for word in part), "?", asked, "="], asked, answer
