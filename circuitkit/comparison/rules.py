"""Rules: which cells of a grid an `include`, an `exclude` or an override is about."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from circuitkit.config import registry
from circuitkit.errors import UsageError, quote
from circuitkit.report.comparison_tables import CONTROL

AXES = ("models", "tasks", "strategies", "precision", "objectives", "seeds")


class Labelled(Protocol):
    """Something with a label on every axis; a random control has no precision of its own to choose it by."""

    @property
    def labels(self) -> dict[str, Any]:
        """Return the labels by axis in the singular, such as `strategy`."""
        ...

    @property
    def is_control(self) -> bool:
        """Tell whether it is a random control."""
        ...


def singular(axis: str) -> str:
    """Return the name of an axis for one of its labels: `strategy` of `strategies`."""
    return {"strategies": "strategy"}.get(axis, axis.removesuffix("s"))


def fits(cell: Labelled, rule: Mapping[str, Any]) -> bool:
    """Tell whether a cell matches every entry of a rule. A rule about precisions is not about random controls."""
    if cell.is_control and "precision" in rule:
        return False
    return all(cell.labels[singular(axis)] in _as_list(labels) for axis, labels in rule.items())


def check_rule(rule: Any, where: str, known: Mapping[str, Sequence[Any]]) -> None:
    """Check a rule.

    Args:
        rule: the rule.
        where: the option that it stands under, for the message.
        known: the labels of each axis.

    Raises:
        UsageError: it is not a mapping, is empty, names an axis or a label that the grid does not have, or chooses the
            random control by a precision.
    """
    if not isinstance(rule, Mapping):
        raise UsageError(f"The rule {quote(rule)} under {where} is not a mapping.", "Give {strategies: eap}, say.")
    if not rule:
        raise UsageError(f"A rule under {where} is empty.", "Give one such as `{strategies: eap}`.")
    for axis, labels in rule.items():
        if axis not in AXES:
            raise registry.unknown_name(f"{where} key", axis, list(AXES))
        for label in _as_list(labels):
            if label not in known[axis]:
                raise registry.unknown_name(f"label under {axis}", label, list(map(str, known[axis])))
    if "precision" in rule and names_only_control(rule):
        raise UsageError(
            f"A rule under {where} is about the precision of the {CONTROL}, which has none to choose it by.",
            "Leave `precision` out of this rule.",
        )


def names_only_control(rule: Mapping[str, Any]) -> bool:
    """Tell whether a rule names the random control, and no other strategy."""
    return set(_as_list(rule.get("strategies", []))) == {CONTROL}


def _as_list(labels: Any) -> list[Any]:
    return list(labels) if isinstance(labels, list | tuple) else [labels]
