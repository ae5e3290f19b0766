"""Where a number misleads: the marks beside it."""

from typing import NamedTuple

from circuitkit.page.leaderboard import Entry, Size
from circuitkit.report.figures import GOOD


class Flag(NamedTuple):
    """A word beside a number that misleads, and why it does."""

    name: str
    why: str


def flag_size(size: Size, control: Entry | None) -> list[Flag]:
    """Say what to beware of in a circuit's held-out faithfulness.

    Args:
        size: the circuit.
        control: the random control of its group.
    """
    flags = []
    value, low = size.test.value, size.test.low
    if size.is_worse_held_out:
        why = "Clearly lower than where it was found: part of the circuit fits those prompts, not the task."
        flags.append(Flag("gap", why))
    if low is not None and low > 2 - GOOD:
        why = f"Above {2 - GOOD:g}: better than the full model, as harmful edges are missing."
        flags.append(Flag("overshoots", why))
    random = None if control is None else control.drawn(size.edges)
    chance = None if random is None else random.test.value
    if random and value is not None and low is not None and chance is not None and value < GOOD and chance >= low:
        why = f"{random.edges_asked:,.0f} random edges reach {chance:.2f}: it may be no better than chance."
        flags.append(Flag("chance?", why))
    undefined = size.of_seeds.count(None)
    if undefined and value is not None:
        why = f"Undefined on {undefined} of {len(size.of_seeds)} seeds: the figure is of the others."
        flags.append(Flag("undefined", why))
    return flags
