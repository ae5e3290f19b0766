"""Make the gallery of the documentation: a page and a picture for each circuit, and a page that lists them.

    circuitkit fetch smollm2-135m
    python tools/make_gallery.py [--only NAME ...] [--out docs/gallery]

Each circuit is found by one command, which its page shows. Figures are those of the run that made the page. With
`--only`, the pages of the others stay as they are. On one core, a circuit of SmolLM2-135M takes some minutes.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import circuitkit
from circuitkit import Circuit, CircuitModel, Result
from circuitkit.config import specs
from circuitkit.tasks import Task

OUT = Path(__file__).parent.parent / "docs" / "gallery"
_DRAWN = 80
"""How many edges a picture shows: more cannot be told apart, and make large files."""
_MEASURES = {"kl": "KL divergence", "logit_difference": "logit difference"}


@dataclass(frozen=True)
class Entry:
    """A circuit of the gallery: how it is found, and what to see in it."""

    title: str
    model: str
    task: dict[str, Any]
    strategy: dict[str, Any]
    look: str
    objective: str = "kl"
    faithfulness: float | None = 0.8
    examples: tuple[int, int, int] = (16, 16, 32)

    def command(self, name: str) -> str:
        parts = [f"circuitkit discover --model {self.model}"]
        for kind, spec in (("task", self.task), ("strategy", self.strategy)):
            words = [f"--{kind} {spec['class_path']}"]
            parts.append(" ".join(words + [f"--{kind}.{key} {value}" for key, value in spec["init_args"].items()]))
        wanted = "" if self.faithfulness is None else f" --faithfulness {self.faithfulness}"
        parts.append(f"--objective {self.objective}{wanted}")
        parts.append(f'--examples "{list(self.examples)}" --out runs/{name} --report')
        return " \\\n  ".join(parts)

    def run(self) -> Result:
        return circuitkit.discover(
            self.model,
            self.task,
            self.strategy["class_path"],
            strategy_args=self.strategy["init_args"],
            objective=self.objective,
            faithfulness=self.faithfulness,
            examples=self.examples,
        )


def _spec(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": arguments}


ENTRIES = {
    "toy_ioi": Entry(
        "Indirect object identification in the toy model",
        "toy",
        _spec("ioi"),
        _spec("acdc", threshold=0.02),
        "Most of it is one head: `a1.h3` reads the names through its keys and values, and writes to the logits, "
        "directly and through `m2`.",
        faithfulness=None,
        examples=(32, 32, 32),
    ),
    "smollm2_ioi": Entry(
        "Indirect object identification in SmolLM2-135M",
        "smollm2-135m",
        _spec("ioi", template=0),
        _spec("eap_ig"),
        "Nearly everything begins with `m0`, which reads the token embedding. Heads of layers 23, 24 and 29 write to "
        "the logits, `a29.h0` and `a24.h4` against the answer. The measures disagree: the circuit brings most of the "
        "distribution back, and a third of the logit difference.",
    ),
    "smollm2_greater_than": Entry(
        "Greater than in SmolLM2-135M",
        "smollm2-135m",
        _spec("greater_than"),
        _spec("eap_ig"),
        "SmolLM2 reads a year digit by digit, so the prompt ends before the third digit. The MLPs `m22` to `m26` write "
        "most to the logits. Few heads are among these edges: some of layers 6, 18, 20 and 23.",
    ),
    "smollm2_agreement": Entry(
        "Subject-verb agreement in SmolLM2-135M",
        "smollm2-135m",
        _spec("subject_verb_agreement", structure="relative"),
        _spec("eap_ig"),
        "The subject is several words before the verb, with another noun between. The head `a26.h0` writes most to the "
        "logits. Its values come from `m0` and from MLPs of the middle layers.",
    ),
}


def show_pair(entry: Entry) -> str:
    task = specs.make("tasks", entry.task)
    assert isinstance(task, Task)
    lines = task.preview(CircuitModel.from_pretrained(entry.model), examples=1).splitlines()
    return "\n".join(lines[: lines.index("")]) if "" in lines else "\n".join(lines)


def show_figures(result: Result) -> str:
    table = result.to_pandas()
    lines = ["| measure | train | test, held out | random edges, test |", "|---|---|---|---|"]
    for key, name in _MEASURES.items():
        cells = [f"faithfulness in the {name}"]
        for split, ranking in (("train", "own"), ("test", "own"), ("test", "random")):
            row = table[(table["split"] == split) & (table["ranking"] == ranking)].iloc[0]
            cells.append(_with_interval(row, f"{key}_faithfulness"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _with_interval(row: Any, column: str) -> str:
    low, high = row.get(f"{column}_low"), row.get(f"{column}_high")
    interval = "" if low is None or low != low else f" [{_round(low)}, {_round(high)}]"
    return f"{_round(row[column])}{interval}"


def _round(figure: float) -> str:
    return f"{round(figure, 2) + 0.0:.2f}"  # no -0.00


def drawn(circuit: Circuit) -> Circuit:
    """Choose what the picture shows: all edges, or the strongest."""
    return circuit if len(circuit) <= _DRAWN else circuit.top(_DRAWN)


def describe(name: str, entry: Entry, result: Result) -> str:
    circuit, edges = result.circuit, len(result.circuit.graph)
    strongest = circuit.to_pandas().query("kept").sort_values("score", key=abs, ascending=False).head(8)
    named = ", ".join(
        f"`{edge}` {score:+.2g}" for edge, score in zip(strongest["edge"], strongest["score"], strict=True)
    )
    shown = "" if len(circuit) <= _DRAWN else f"The picture shows its {_DRAWN} strongest edges. "
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    accuracy = result.to_pandas().query("split == 'test' and ranking == 'own'").iloc[0]
    return f"""# {entry.title}

![The circuit: layers as rows, from input to logits]({name}.png)

{shown}{entry.look} ([How to read a picture](../drawing.md#how-to-read-a-picture).)

## The task

```text
{show_pair(entry)}
```

## Figures

{len(circuit):,} of {edges:,} edges ({len(circuit) / edges:.1%}). On the {entry.examples[2]} test prompts the full model
answers {accuracy["accuracy_model"]:.0%} correctly, and the circuit {accuracy["accuracy_circuit"]:.0%}.

{show_figures(result)}

In brackets are [95% intervals](../explanation/intervals.md) over prompts; [what the measures
mean](../explanation/measures.md), and [what a circuit is not](../explanation/not_a_circuit.md).

Strongest edges, by |score|: {named}.

## Find it again

```bash
{entry.command(name)}
```

Made by `tools/make_gallery.py` with circuitkit {circuitkit.__version__} on {today}; the search took
{result.metrics["wall_s"]:.0f} s on one busy core. `runs/{name}/report.html` shows every edge, and every prompt.
"""


def list_all(folder: Path) -> str:
    rows = []
    for name, entry in ENTRIES.items():
        page = folder / f"{name}.md"
        if page.exists():
            size = page.read_text().partition("## Figures\n\n")[2].partition(")")[0]
            method = entry.strategy["class_path"]
            rows.append(
                f"| [![{entry.title}]({name}.png)]({name}.md) | [{entry.title}]({name}.md), by `{method}`: {size}) |"
            )
    table = "\n".join(["| | |", "|---|---|", *rows])
    return (
        "# Gallery\n\nCircuits that circuitkit found, each by the one command on its page. "
        f"`python tools/make_gallery.py` makes them again.\n\n{table}\n"
    )


def make(names: Sequence[str], folder: Path) -> None:
    """Find the circuits, and write their pages and pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        result = ENTRIES[name].run()
        drawn(result.circuit).draw(folder / f"{name}.png")
        (folder / f"{name}.md").write_text(describe(name, ENTRIES[name], result))
        (folder / "index.md").write_text(list_all(folder))
        print(f"{name}: {result.circuit}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the pages that the command line names."""
    parser = argparse.ArgumentParser(description="Make the gallery of the documentation.")
    parser.add_argument("--only", nargs="+", choices=list(ENTRIES), default=list(ENTRIES), help="by default all")
    parser.add_argument("--out", type=Path, default=OUT, help="the folder of the pages")
    given = parser.parse_args(arguments)
    make(given.only, given.out)


if __name__ == "__main__":
    main()
