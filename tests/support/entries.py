"""Lines of a leaderboard, without a computation."""

from statistics import stdev

from circuitkit.page.leaderboard import Entry, Size
from circuitkit.report.comparison_tables import CONTROL
from circuitkit.report.over_seeds import SeedAverage

Triple = tuple[float | None, float | None, float | None]
NOTHING = SeedAverage(None, None, None, None)


def average(*figure: float | None) -> SeedAverage:
    value, low, high = figure
    return SeedAverage(value, low, high, None)


def size(
    edges: float,
    *test: float | None,
    train: Triple = (None, None, None),
    ranking: str = "absolute",
    of_seeds: tuple[float | None, ...] = (),
    asked: float | None = None,
) -> Size:
    """Make a circuit of this many edges, of 1,000."""
    asked = edges if asked is None else asked
    found = of_seeds or test[:1]
    spread = stdev(found) if len(found) > 1 and None not in found else None
    value, low, high = test
    figure = SeedAverage(value, low, high, spread)
    return Size(ranking, asked / 1000, asked, edges, figure, average(*train), NOTHING, found)


def entry(method: str, cmd: Triple = (None, None, None), sizes: tuple[Size, ...] = ()) -> Entry:
    return Entry(
        *("toy", "ioi", "logit_difference", method, "full", "all edges", method),
        seeds=1,
        prompts=32,
        sizes=sizes,
        cmd=average(*cmd),
        cpr=NOTHING,
        wall_s=1.0,
        peak_mb=1.0,
        notes=(),
        folders=(f"cells/{method}",),
        is_control=method == CONTROL,
    )
