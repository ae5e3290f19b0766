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
    random = None if control is None else control.at_least(size.edges_asked)
    chance = None if random is None else random.test.value
    if value is not None and low is not None and chance is not None and value < GOOD and chance >= low:
        flags.append(
            Flag("chance?", f"Random edges of this number reach {chance:.2f}: it may be no better than chance.")
        )
    return flags
