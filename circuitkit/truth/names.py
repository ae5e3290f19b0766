"""Indirect object identification in miniature."""

from collections.abc import Sequence
from random import Random

from circuitkit.truth.copying import default, previous
from circuitkit.truth.known_circuit import AblationName
from circuitkit.truth.program import Program
from circuitkit.truth.steps import HARD, TOKEN, Attend, Match, Output, Step, constant_query, copy, sum_to
from circuitkit.truth.task import Pair


class IndirectObject(Program):
    """`then Ann and Bob went so Bob gave to` -> `Ann`, by elimination, as GPT-2 small does it.

    After Wang et al. 2022 (arXiv 2211.00593): a previous-token head and a duplicate-token head find that the second
    `Bob` repeats a name. At the end, an S-inhibition head copies that name, which makes the name mover's query avoid
    it: it attends to the only name left. In the corrupted prompts no name is repeated.
    """

    name = "indirect_object"
    people = ("Ann", "Bob", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal")
    fillers = ("then", "so", "well")
    words = (*people, *fillers, "and", "went", "gave", "to")
    length = 10

    def steps(self) -> Sequence[Step]:
        """See the base class."""
        names = self.people
        earlier = Match(TOKEN, "previous", copy(names, HARD))
        duplicate = Attend(
            "duplicate",
            TOKEN,
            sum_to(self.words, "yes"),
            to="duplicate",
            matches=(earlier, default()),
            fixed_value=True,  # a word, whichever
        )
        repeated = Match(None, "duplicate", constant_query(["yes"]))
        inhibition = Attend("s_inhibition", TOKEN, copy(names), to="inhibited", matches=(repeated, default()))
        any_name = Match(None, TOKEN, constant_query(names))
        other_name = Match("inhibited", TOKEN, copy(names, -HARD))
        mover = Attend("name_mover", TOKEN, copy(names), to="moved", matches=(any_name, other_name))
        return previous(symbols=names), duplicate, inhibition, mover

    def outputs(self) -> Sequence[Output]:
        """See the base class."""
        return (Output("moved", copy(self.people)),)

    def without_effect(self, ablation: AblationName) -> set[tuple[str, str]]:
        """Leave out where two heads attend by default, to BOS: the repeated name has the largest flag in any case."""
        return {("input", "duplicate.k"), ("input", "s_inhibition.k")}

    def draw(self, rng: Random) -> Pair:
        """See the base class."""
        first, second, *others = rng.sample(self.people, 5)
        answer, repeated = (first, second) if rng.random() < 0.5 else (second, first)
        clean, corrupted = self._sentence(rng, first, second, repeated), self._sentence(rng, *others)
        return Pair(clean, corrupted, [answer], [repeated])

    def _sentence(self, rng: Random, *names: str) -> list[str]:
        first, second, third = names
        before = rng.randrange(3)
        start, middle = ([rng.choice(self.fillers) for _ in range(count)] for count in (before, 2 - before))
        return [*start, first, "and", second, "went", *middle, third, "gave", "to"]
