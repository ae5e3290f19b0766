"""Draw what `benchmarks/learning_curve.py` measured: docs/figures/learning_curve.svg.

    python benchmarks/learning_curve.py --out FOLDER | tee curve.txt
    python tools/plot_learning_curve.py [curve.txt] [--out docs/figures/learning_curve.svg]

The measured points are kept in docs/figures/learning_curve.json. Those of the file are added, or replace the same ones;
then all are drawn. So the hours that the grid takes can be spent in parts, on several days.

One panel per method: faithfulness in the KL divergence over the number of prompts, where the circuit was found (dashed)
and on test prompts (solid); of some sizes of a ranking, and of ACDC's own circuit, with its mean number of edges. A dot
is one seed, and a line goes through the means. On the right, apart: prompts of all templates. Draws with matplotlib.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

FRACTIONS = (0.005, 0.01, 0.05)
COLORS = ("#1f5fa8", "#c4541b", "#3a7d44")
SPLITS = {"found": "--", "held_out": "-"}
OUT = Path(__file__).parents[1] / "docs" / "figures" / "learning_curve.svg"
DATA = OUT.with_suffix(".json")


def circuits(point: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the circuits to draw of a point, by label."""
    if point["method"].startswith("acdc"):
        return {"its own circuit": point["own"]}
    return {f"{one['fraction']:.1%} of the edges": one for one in point["sizes"] if one["fraction"] in FRACTIONS}


def panel(axes: Axes, points: list[dict[str, Any]], counts: list[int]) -> None:
    """Plot one method; `counts`: the numbers of prompts of all methods."""
    lines: dict[str, dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    apart = 3 * counts[-1]  # the place of all templates on the logarithmic axis
    for point in points:
        place = point["prompts"] if point["templates"] != "all" else apart
        for label, circuit in circuits(point).items():
            lines[label][place].append(circuit)
    for (label, places), color in zip(lines.items(), COLORS, strict=False):
        for split, style in SPLITS.items():
            x = [place for place in sorted(places) if place != apart]
            axes.plot(x, [mean(one[split] for one in places[place]) for place in x], style, color=color)
            for place, found in places.items():
                fill = color if split == "held_out" else "none"
                axes.plot([place] * len(found), [one[split] for one in found], "o", ms=4, color=color, mfc=fill)
        axes.plot([], [], color=color, label=label)
        if len(lines) == 1:
            for place, found in places.items():
                edges = f"{mean(one['edges'] for one in found):,.0f} edges"
                axes.annotate(edges, (place, 0.03), ha="center", fontsize=7, color=color)
    axes.set(title=points[0]["method"].replace("_", " "), ylim=(0, 1.02), xscale="log")
    ticks = [*counts, apart] if any(point["templates"] == "all" for point in points) else counts
    axes.set_xticks(ticks, [*map(str, counts), f"{counts[-1]}, all\ntemplates"][: len(ticks)])
    axes.set_xlim(ticks[0] / 2, ticks[-1] * 2)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=7, loc="lower right")


def merge(kept: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add points, which replace those of the same method, prompts and seed; sort them as the benchmark does."""

    def key(point: dict[str, Any]) -> tuple[Any, ...]:
        return point["templates"] == "all", point["prompts"], point["seed"], point["method"]

    by_key = {key(point): point for point in [*kept, *new]}
    methods = list(dict.fromkeys(point["method"] for point in [*kept, *new]))
    return sorted(by_key.values(), key=lambda point: (*key(point)[:-1], methods.index(point["method"])))


def draw(points: list[dict[str, Any]], out: Path) -> None:
    """Draw all panels into a file."""
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "svg.hashsalt": "learning_curve"})
    methods = list(dict.fromkeys(point["method"] for point in points))
    counts = sorted({point["prompts"] for point in points})
    rows = -(-len(methods) // 3)
    figure, panels = plt.subplots(rows, 3, figsize=(9, 3 * rows), layout="constrained", sharey=True, squeeze=False)
    for axes, method in zip(panels.flat, methods, strict=False):
        panel(axes, [point for point in points if point["method"] == method], counts)
    for axes in panels.flat[len(methods) :]:
        axes.set_axis_off()
    figure.supxlabel("prompts where the circuit was found (IOI, template 0)", fontsize=9)
    figure.supylabel("faithfulness in the KL divergence", fontsize=9)
    figure.suptitle("Dashed: on the prompts where the circuit was found. Solid: on 64 test prompts.", fontsize=10)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120, metadata={"Date": None} if out.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="what the benchmark printed")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    points = json.loads(DATA.read_text())
    if arguments.file:
        points = merge(points, json.loads(arguments.file.read_text().splitlines()[-1])["points"])
        DATA.write_text("[\n" + ",\n".join(map(json.dumps, points)) + "\n]\n")
    draw(points, arguments.out)


if __name__ == "__main__":
    main()
