"""Programs that copy a token which they find by what stands near it: induction, lookup, reversal, duplicates."""

from collections.abc import Sequence
from random import Random

from circuitkit.truth.program import Program
from circuitkit.truth.steps import BOS, HARD, TOKEN, Attend, Match, Output, Step, constant_query, copy, sum_to
from circuitkit.truth.task import Pair

LETTERS = tuple("abcdefghij")


def previous(name: str = "previous", symbols: Sequence[str] = LETTERS) -> Attend:
    """Make a previous-token head, which writes the token before into a block of its own name."""
    return Attend(name, TOKEN, copy(symbols), to=name, offset=1)


def default() -> Match:
    """Make a part of a score by which a head attends to BOS where nothing else has `HARD`."""
    return Match(None, TOKEN, constant_query([BOS], HARD / 2), fixed=True)


class Induction(Program):
    """`d a c b e a` -> `c`: what followed the last token when it stood before.

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
    lookup head compares the two, everywhere but at the `=` itself.
    """

    name = "key_value_lookup"
    keys, values, filler = tuple("abcdef"), tuple("123456"), tuple(".,;")
    words = (*keys, *values, *filler, "?", "=")
    length = 13

    def steps(self) -> Sequence[Step]:
        """See the base class."""
        same = Match("previous", "previous", copy(self.keys, HARD))
        not_itself = Match(None, TOKEN, constant_query(["="], -HARD), fixed=True)
        lookup = Attend("lookup", TOKEN, copy(self.values), to="found", matches=(same, not_itself))
        return previous(symbols=self.keys), lookup

    def outputs(self) -> Sequence[Output]:
        """See the base class."""
        return (Output("found", copy(self.values)),)

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


class Reverse(Program):
    """`d a c b e | e b` -> `c`: the list before the bar, backwards.

    The answer is what stood before the last token in the list. A head finds the last token there, and copies what a
    previous-token head wrote; a third head writes at which positions the bar has passed, so that the last token does
    not find itself.
    """

    name = "reverse"
    bar = "|"
    words = (*LETTERS, bar)
    length = 10

    def steps(self) -> Sequence[Step]:
        """See the base class."""
        bar = Match(None, TOKEN, constant_query([self.bar]))
        after = Attend("after_bar", TOKEN, {(self.bar, "yes"): 1.0}, to="after_bar", matches=(bar, default()))
        same = Match(TOKEN, TOKEN, copy(LETTERS, HARD))
        in_list = Match(None, "after_bar", constant_query(["yes"], -HARD / 2))
        reverse = Attend("reverse", "previous", copy(LETTERS), to="found", matches=(same, in_list))
        return previous(), after, reverse

    def outputs(self) -> Sequence[Output]:
        """See the base class."""
        return (Output("found", copy(LETTERS)),)

    def draw(self, rng: Random) -> Pair:
        """See the base class; the corrupted prompt has no bar."""
        done = rng.randint(1, 3)
        letters = rng.sample(LETTERS, self.length - 2 - done)
        clean = [*letters, self.bar, *letters[: -done - 1 : -1]]
        answer, last = letters[-done - 1], clean[-1]
        wrong = rng.choice([letter for letter in letters if letter not in (answer, last)])
        corrupted = rng.sample(LETTERS, len(clean))
        while corrupted[-1] == last:
            corrupted = rng.sample(LETTERS, len(clean))
        return Pair(clean, corrupted, [answer], [wrong])


class DuplicateToken(Program):
    """`d a c b a e ?` -> `a`: the letter that occurs twice.

    A duplicate-token head attends from a letter to the position after its earlier occurrence, which it knows by what a
    previous-token head wrote, and writes a flag; without an earlier occurrence it attends to BOS and writes none. At
    the end, a head copies the letter that has the flag.
    """

    name = "duplicate_token"
    words = (*LETTERS, "?")
    length = 10

    def steps(self) -> Sequence[Step]:
        """See the base class."""
        earlier = Match(TOKEN, "previous", copy(LETTERS, HARD))
        flag = Attend(
            "duplicate",
            TOKEN,
            sum_to(LETTERS, "yes"),
            to="duplicate",
            matches=(earlier, default()),
            fixed_value=True,  # a letter, whichever
        )
        flagged = Match(None, "duplicate", constant_query(["yes"]))
        return previous(), flag, Attend("collect", TOKEN, copy(LETTERS), to="found", matches=(flagged,))

    def outputs(self) -> Sequence[Output]:
        """See the base class."""
        return (Output("found", copy(LETTERS)),)

    def draw(self, rng: Random) -> Pair:
        """See the base class."""
        (clean, answer), (corrupted, wrong) = self._prompt(rng), self._prompt(rng)
        while wrong == answer:
            corrupted, wrong = self._prompt(rng)
        return Pair(clean, corrupted, [answer], [wrong])

    def _prompt(self, rng: Random) -> tuple[list[str], str]:
        letters = rng.sample(LETTERS, self.length - 3)
        first = rng.randrange(len(letters) - 1)
        letters.insert(rng.randint(first + 2, len(letters)), letters[first])
        return [*letters, "?"], letters[first]
