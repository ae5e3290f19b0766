"""The check of a prompt file as one screen of text."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from circuitkit.evaluation.suitability import FRACTION, HALF_WIDTH, Suitability
from circuitkit.models.circuit_model import CircuitModel
from circuitkit.report.figures import format_interval
from circuitkit.tasks.base import Task, show_pair
from circuitkit.tasks.file_check import FileCheck, Finding

_SHOWN = 25
"""How many problems are shown in full; of the others, only the lines."""
_PAIRS = 2
_INDENT, _WIDTH = 13, 118


def prompt_check_text(path: str | Path, model: CircuitModel, check: FileCheck, found: Suitability | None) -> str:
    """Describe a checked file.

    Args:
        path: of the file.
        model: whose tokenizer it was checked for.
        check: what was found in it.
        found: what its prompts are good for; None: that was not measured.
    """
    return "\n".join(_lines(str(path), model, check, found))


def _lines(path: str, model: CircuitModel, check: FileCheck, found: Suitability | None) -> Iterator[str]:
    batch = check.batch
    if batch is not None:
        for row in range(min(_PAIRS, len(batch))):
            yield show_pair(batch, row, model.tokenizer)
        yield ""
    yield from _row("Prompts", _describe_rows(check))
    if check.splits:
        yield from _row("Splits", ", ".join(f"{count} {split}" for split, count in check.splits.items()))
    if found is not None:
        yield from _of_model(found)
        yield from _strategies(found.strategies)
        yield from _needed(found, check)
    yield from _findings("Warnings", check.warnings)
    yield from _findings("Problems", check.problems)
    yield ""
    yield f"{path} cannot be used: mend the problems above." if check.problems else f"{path} can be used."


def _row(head: str, text: str) -> Iterator[str]:
    """Write a text beside its head, in lines of one screen's width."""
    first = f"{head}:" if head else ""
    yield from textwrap.wrap(
        text, _WIDTH, initial_indent=first.ljust(_INDENT), subsequent_indent=" " * _INDENT, break_on_hyphens=False
    )


def _describe_rows(check: FileCheck) -> str:
    if check.batch is None:
        return f"{check.rows} rows, none of which can be used"
    lengths = check.batch.mask.sum(-1)
    low, high = int(lengths.min()), int(lengths.max())
    tokens = f"{low} tokens each" if low == high else f"{low} to {high} tokens"
    answers = "answers of one token"
    if check.long_answers:
        answers = f"{check.long_answers} with answers of several tokens, of which the first differing one counts"
    return f"{check.rows} rows; different pairs that can be used: {len(check.batch)}; {tokens}, {answers}"


def _of_model(found: Suitability) -> Iterator[str]:
    ability = found.ability
    chance = "" if ability.chance is None else f" (chance: {ability.chance:.0%})"
    right = format_interval(ability.accuracy, percent=True)
    difference = format_interval(ability.logit_difference)
    text = f"right on {right} of {ability.prompts} prompts{chance}, logit difference {difference}"
    if found.near_chance:
        text += "; close to chance: it may not do this at all, and then no circuit of it means anything"
    yield from _row("Model", text)
    suiting = [name for name, why in found.objectives.items() if not why]
    shown = (f"{name} (the default)" if name == Task.objective else name for name in suiting)
    yield from _row("Objectives", ", ".join(shown) or "none")
    for name, why in found.objectives.items():
        if why:
            yield from _row("", f"not {name}: {why}")


def _strategies(strategies: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Say which strategies do not suit, and why; objectives with the same ones for the same reasons share a line."""
    same: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for objective, refusing in strategies.items():
        same.setdefault(tuple(refusing.items()), []).append(objective)
    whole = same.pop((), [])
    head = "Strategies"
    if whole:
        yield from _row(head, f"all with {', '.join(whole)}")
        head = ""
    for refused, objectives in same.items():
        of_reason: dict[str, list[str]] = {}
        for name, why in refused:
            of_reason.setdefault(why.rstrip("."), []).append(name)
        reasons = "; ".join(f"{', '.join(names)} ({why})" for why, names in of_reason.items())
        yield from _row(head, f"with {', '.join(objectives)} all but {reasons}")
        head = ""


def _needed(found: Suitability, check: FileCheck) -> Iterator[str]:
    if found.objective is None:
        yield from _row("Needed", "not known: no objective that suits has a gradient at the full model")
        return
    how = (
        f"faithfulness ({found.objective}) of the first {FRACTION:.0%} of EAP's edges is "
        f"{format_interval(found.faithfulness)} on {found.ability.prompts} prompts"
    )
    if found.needed is None:
        few = found.faithfulness.low is None
        why = "are too few, or too different" if few else "all have the same effect"
        yield from _row("Needed", f"not known, since these prompts {why}: {how}")
        return
    has = ""
    if check.splits and check.splits["test"] < found.needed:
        has = f", and the split has {check.splits['test']}"
    yield from _row(
        "Needed",
        f"about {found.needed} test prompts for 95% intervals of ±{HALF_WIDTH}{has}. How this is estimated: {how}, and "
        "an interval narrows with the square root of the number of prompts.",
    )


def _findings(what: str, findings: Sequence[Finding]) -> Iterator[str]:
    if not findings:
        return
    yield ""
    yield f"{what} ({len(findings)}):"
    for finding in findings[:_SHOWN]:
        yield f"  {f'{finding.where} ' if finding.where else ''}{finding.text} {finding.remedy}"
    if more := findings[_SHOWN:]:
        yield f"  and {len(more)} more: {', '.join(finding.where or 'the file' for finding in more)}"
