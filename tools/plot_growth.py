"""Draw what `benchmarks/growth.py` measured: docs/figures/growth.svg.

    python benchmarks/growth.py --save growth.jsonl | tee growth.txt
    python tools/plot_growth.py growth.txt [--out docs/figures/growth.svg]

Draws with matplotlib. The file's last line is the benchmark's JSON object.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

MEASURED, ESTIMATED = "#1f5fa8", "#c4541b"
PARTS = {"captures": "captures", "live": "live state", "cone": "cone of one hypothesis"}


def series(found: dict[str, Any], name: str) -> tuple[list[int], list[float]]:
    """Return the sizes in rising order, and a figure of each."""
    sizes = sorted(map(int, found))
    return sizes, [found[str(size)][name] for size in sizes]


def test_panel(axes: Axes, found: dict[str, Any]) -> None:
    """Plot an edge test over depth, with the extrapolation."""
    axes.loglog(*series(found["layers"], "test_in_forwards"), "o-", color=MEASURED, label="measured")
    axes.loglog(*series(found["layers"], "arithmetic_in_forwards"), ":", color=MEASURED, label="multiply-adds")
    axes.plot(
        32, found["extrapolation"]["test_in_forwards"], "D", mfc="none", color=ESTIMATED, label="8B, extrapolated"
    )
    axes.set(title="One edge test", xlabel="layers", ylabel="plain forwards")


def search_panel(axes: Axes, found: dict[str, Any]) -> None:
    """Plot a whole search over depth, with the extrapolation."""
    axes.loglog(*series(found["layers"], "search_s"), "o-", color=MEASURED, label="summed up from timed tests")
    axes.plot(
        32, 3600 * found["extrapolation"]["search_h"], "D", mfc="none", color=ESTIMATED, label="8B, extrapolated, here"
    )
    axes.set(title="A whole search", xlabel="layers", ylabel="seconds")


def prompts_panel(axes: Axes, found: dict[str, Any]) -> None:
    """Plot an edge test over prompts."""
    axes.loglog(*series(found["prompts"], "value_s"), "o-", color=MEASURED, label="an edge test")
    axes.loglog(*series(found["prompts"], "forward_s"), "s--", color="grey", label="a plain forward")
    axes.set(title=f"{max(map(int, found['layers']))} layers, more prompts", xlabel="prompts", ylabel="seconds")


def memory_panel(axes: Axes, found: dict[str, Any]) -> None:
    """Plot memory by part over depth, with the extrapolation."""
    for (part, name), style in zip(PARTS.items(), ("o-", "s--", "^:"), strict=True):
        axes.loglog(*series(found["layers"], f"{part}_mb"), style, color=MEASURED, label=name)
        axes.plot(32, found["extrapolation"][f"{part}_mb"], style[0], mfc="none", color=ESTIMATED)
    axes.set(title="Memory (hollow: 8B, extrapolated)", xlabel="layers", ylabel="MB")


def draw(found: dict[str, Any], out: Path) -> None:
    """Draw all panels into a file."""
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "svg.hashsalt": "growth"})
    figure, panels = plt.subplots(2, 2, figsize=(8, 6), layout="constrained")
    for panel, axes in zip((test_panel, search_panel, prompts_panel, memory_panel), panels.flat, strict=True):
        panel(axes, found)
        sizes = sorted(map(int, found["prompts" if panel is prompts_panel else "layers"]))
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(f"ACDC's edge tests where {found['density']:.0%} of the edges are kept", fontsize=11)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120, metadata={"Date": None} if out.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="what the benchmark printed")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "figures" / "growth.svg")
    arguments = parser.parse_args()
    draw(json.loads(arguments.file.read_text().splitlines()[-1]), arguments.out)


if __name__ == "__main__":
    main()
