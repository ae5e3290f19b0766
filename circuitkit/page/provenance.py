"""Where a page's numbers come from, in words."""

from collections.abc import Mapping
from typing import Any

from circuitkit.page.content import Content


def describe_cell(labels: Mapping[str, Any]) -> str:
    """Name a cell in a line; empty for a run without labels."""
    if not labels:
        return ""
    what = f"{labels['strategy']} ({labels['precision']}) on {labels['task']} in {labels['model']}"
    return f"{what}, {labels['objective']}, seed {labels['seed']}"


def summarize(content: Content) -> str:
    """Say in a line how much there is, and of what."""
    states = [cell.state for cell in content.cells]
    done = states.count("finished")
    parts = [f"{done:,} of {len(states):,} cells finished"] if content.kind == "comparison" else []
    parts += [f"{states.count(state):,} {state}" for state in ("failed", "lost") if state in states]
    if not content.frame.empty:
        numbers = sorted(int(number) for number in content.frame["prompts_test"].dropna().unique())
        if numbers:
            prompts = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
            parts.append(f"{prompts} held-out prompts per seed")
        seeds = content.frame["seed"].nunique()
        parts.append(f"{seeds} seed{'s' * (seeds != 1)}")
    device = content.environment.get("machine", {})
    if isinstance(device, Mapping) and "device" in device:
        parts.append(f"on {device['device']}")
    text = ", ".join(parts)
    return f"{text}." if text else ""


def list_facts(content: Content) -> list[tuple[str, str]]:
    """List time, versions, machine, seeds and hashes, as names and values."""
    environment = content.environment
    facts = [("Folder", str(content.folder))]
    if "time" in environment:
        facts.append(("Started", str(environment["time"])))
    for name, title in (("versions", "Versions"), ("machine", "Machine")):
        found = environment.get(name)
        if isinstance(found, Mapping):
            facts.append((title, ", ".join(f"{key} {value}" for key, value in found.items())))
    if content.config and content.kind == "comparison":
        again = "save the configuration below as FILE, then: circuitkit compare --config FILE --out NEW"
        facts.append(("To repeat the whole comparison", again))
    workers = environment.get("workers")
    if workers is not None:
        shared = "; several ran at once, so that times are not comparable" if workers != 1 else ""
        facts.append(("Cells at once", f"{workers} ({environment.get('executor')}){shared}"))
    seeds = sorted({cell.labels["seed"] for cell in content.cells if "seed" in cell.labels})
    if seeds:
        facts.append(("Seeds", ", ".join(map(str, seeds))))
    hashes = sorted({value for value in list_hashes(content).values() if value})
    if hashes:
        shown = ", ".join(hashes[:12]) + (f" and {len(hashes) - 12} more" if len(hashes) > 12 else "")
        facts.append(
            ("Held-out prompts", f"SHA-256 beginning with {shown}; rows with the same one have the same prompts")
        )
    return facts


def list_hashes(content: Content) -> dict[str, str]:
    """Return the hash of the held-out prompts by the cell's folder."""
    frame = content.frame[["folder", "prompts_test_hash"]].drop_duplicates("folder")
    return dict(zip(frame["folder"].tolist(), frame["prompts_test_hash"].fillna("").tolist(), strict=True))
