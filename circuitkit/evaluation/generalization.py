"""Whether circuits do as well on held-out prompts as on those on which they were found."""

from collections.abc import Mapping, Sequence

from circuitkit.evaluation.evaluation import Evaluation, Point

GAP = 0.1
"""A larger difference of faithfulness between train and test is noted."""


def generalization_notes(evaluations: Mapping[str, Sequence[Evaluation]], drawn: int | None = None) -> list[str]:
    """Note a circuit, or for a ranking a size, whose faithfulness is much larger on train than on test.

    Args:
        evaluations: by split, one per circuit.
        drawn: how many prompts the circuits were found on, if the strategy drew them itself.

    Returns:
        At most one note per circuit: of its own edges or, for a ranking, of the size with the largest gap.
    """
    notes = []
    pairs = list(zip(evaluations.get("train", ()), evaluations.get("test", ()), strict=False))
    for number, (train, test) in enumerate(pairs, 1):
        found = [
            (one.faithfulness - other.faithfulness, one, other)
            for one, other in zip(train.points, test.points, strict=True)
            if one.ranking in ("own", "absolute") and one.faithfulness is not None and other.faithfulness is not None
        ]
        own = [gap for gap in found if gap[1].ranking == "own"] or found
        if own:
            gap, one, other = max(own, key=lambda gap: gap[0])
            if gap > GAP:
                notes.append(_say(one, other, f"circuit {number}" if len(pairs) > 1 else "the circuit", train, drawn))
    return notes


def _say(train: Point, test: Point, which: str, on_train: Evaluation, drawn: int | None) -> str:
    if train.ranking == "absolute":
        which = f"the top {train.edges_asked:,} edges"
    if not _is_clear(train, test):
        return (
            f"Faithfulness of {which} in {on_train.objective} is {train.faithfulness:z.2f} on the prompts where it "
            f"was found, and {test.faithfulness:z.2f} on held-out ones. So few prompts do not tell whether part of it "
            "fits these prompts, not the task; report the second figure, or take more (examples)."
        )
    advice = "find it on more prompts (examples) or on more varied ones"
    if drawn is not None and drawn > on_train.prompts:
        advice = f"take more varied ones or a larger circuit, since it was found on {drawn:,}, whatever examples says"
    return (
        f"Faithfulness of {which} in {on_train.objective} is {train.faithfulness:z.2f} on the prompts where it was "
        f"found, and {test.faithfulness:z.2f} on held-out ones: part of it fits these prompts, not the task. Report "
        f"the second figure; to narrow the gap, {advice}."
    )


def _is_clear(train: Point, test: Point) -> bool:
    """Tell whether the interval on train is above that on test."""
    one, other = train.searched.faithfulness, test.searched.faithfulness
    return bool(one and other and one.low is not None and other.high is not None and one.low > other.high)
