"""The methods of a comparison, a line each, with ranks as far as intervals support them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import pandas as pd

from circuitkit.page.content import to_records
from circuitkit.report.comparison_tables import CONTROL, NOTES
from circuitkit.report.figures import GOOD
from circuitkit.report.over_seeds import SeedAverage, average_over_seeds

_GROUP = ("model", "task", "objective")
_METHOD = ("strategy", "precision", "operating_point")
_USED = (
    "seed",
    "ranking",
    "fraction",
    "edges_asked",
    "edges",
    "wall_s",
    "peak_mb",
    "prompts_test",
    "prompts_test_hash",
)
_FIGURES = ("faithfulness_test", "faithfulness_train", "accuracy_circuit", "cpr", "cmd")
_NOTHING = SeedAverage(None, None, None, None)
NEAR, _LARGER = 1.1, 1.5
"""Two circuits are of about one size if neither has more than `NEAR` times the edges of the other. What does not hold
with up to `_LARGER` times as many edges speaks against a smaller one too."""


@dataclass(frozen=True)
class Size:
    """A circuit of an entry, over seeds.

    Attributes:
        ranking: `own` for the edges that the method chose, `absolute` for the best by |score|.
        fraction: the requested fraction of the edges; edges_asked: that number; edges: the size of the circuit, as
            many as were left after unconnected ones were dropped, on average.
        test, train: faithfulness on held-out prompts, and on those where the circuit was found.
        accuracy: on held-out prompts.
        of_seeds: `test` of each seed; None where it is undefined, or the seed has no such circuit.
    """

    ranking: str
    fraction: float
    edges_asked: float
    edges: float
    test: SeedAverage
    train: SeedAverage
    accuracy: SeedAverage
    of_seeds: tuple[float | None, ...]

    @property
    def holds(self) -> bool:
        """Tell whether it is faithful on held-out prompts: every seed's, and their mean with 95% confidence.

        The full model does not count.
        """
        value, low = self.test.value, self.test.low
        if self.fraction == 1 or value is None or low is None:
            return False
        every = all(one is not None and GOOD <= one <= 2 - GOOD for one in self.of_seeds)
        return every and low >= GOOD and value <= 2 - GOOD

    @property
    def is_worse_held_out(self) -> bool:
        """Tell whether faithfulness is lower on held-out prompts than where the circuit was found, beyond doubt."""
        return self.train.low is not None and self.test.high is not None and self.test.high < self.train.low


@dataclass(frozen=True)
class Entry:
    """A line of the leaderboard: a strategy with a precision at an operating point, on one task in one model.

    Attributes:
        method: the name of strategy and precision.
        seeds, prompts: numbers; prompts of one seed.
        sizes: circuits by |score| from the smallest to the largest, and the method's own if it chose one.
        cmd, cpr: the areas; `wall_s` (seconds), `peak_mb` (2**20 bytes): of the discovery, means over seeds.
        folders: of the cells, one per seed.
        is_control: whether it is a random control.
        rank: 1 + the number of entries of its group that are better beyond doubt; None without figures and for the
            random control.
        tied: whether others have this rank.
    """

    model: str
    task: str
    objective: str
    strategy: str
    precision: str
    operating_point: str
    method: str
    seeds: int
    prompts: int
    sizes: tuple[Size, ...]
    cmd: SeedAverage
    cpr: SeedAverage
    wall_s: float | None
    peak_mb: float | None
    notes: tuple[str, ...]
    folders: tuple[str, ...]
    is_control: bool = False
    rank: int | None = None
    tied: bool = False

    @property
    def group(self) -> tuple[str, str, str]:
        """Return model, task and objective: entries of one group can be compared."""
        return self.model, self.task, self.objective

    @property
    def own(self) -> Size | None:
        """Return the circuit that the method chose itself."""
        return next((size for size in self.sizes if size.ranking == "own"), None)

    @property
    def smallest(self) -> Size | None:
        """Return the smallest circuit that holds on held-out prompts."""
        return min((size for size in self.sizes if size.holds), key=lambda size: size.edges, default=None)

    def near(self, edges: float) -> Size | None:
        """Return the circuit to compare with one of this number of edges; None if none was measured near it.

        It is the smallest that is not smaller, or else the largest that is smaller. One that is larger by half does not
        tell whether a smaller one holds if it holds itself.
        """
        ends = {size: edges * (NEAR if size.holds else _LARGER) for size in self.sizes if size.fraction < 1}
        sizes = [size for size, most in ends.items() if edges / NEAR <= size.edges <= most]
        larger = [size for size in sizes if size.edges >= edges]
        if larger:
            return min(larger, key=lambda size: size.edges)
        return max(sizes, key=lambda size: size.edges, default=None)

    def drawn(self, edges: float) -> Size | None:
        """Return the random control's smallest circuit of which at least this number of edges was drawn.

        Of edges drawn at random few are connected, so that the number left says little.
        """
        found = (size for size in self.sizes if size.edges_asked >= edges and size.fraction < 1)
        return min(found, key=lambda size: size.edges_asked, default=None)


def leaderboard(frame: pd.DataFrame, controls: Collection[str] = (CONTROL,)) -> list[Entry]:
    """Make the lines of all groups, in the order of the rows' first appearance; within a group, the best first.

    Args:
        frame: rows, with the columns `comparison.rows.COLUMNS`.
        controls: the strategies that choose edges at random, which have no rank.
    """
    done = frame[(frame["error"] == "") & (frame["ranking"] != "complement")]
    ends = [f"{name}{end}" for name in _FIGURES for end in ("", "_low", "_high")]
    records = to_records(done[[*_GROUP, *_METHOD, *_USED, *ends, "notes", "folder"]])
    several = {name for name, labels in _precisions(records).items() if len(labels) > 1}
    entries: dict[tuple[str, ...], list[Entry]] = {}
    for key, rows in _split(records, *_GROUP, *_METHOD).items():
        entry = replace(_make_entry(key, rows, several), is_control=key[3] in controls)
        entries.setdefault(key[:3], []).append(entry)
    return [entry for of_group in entries.values() for entry in rank_entries(of_group)]


def rank_entries(entries: Sequence[Entry]) -> list[Entry]:
    """Rank the entries of one group by CMD or, where not all have it, by faithfulness at a common size.

    Two are told apart if their 95% intervals do not overlap, which asks for more than a test of the difference: it
    never claims what the intervals do not support.
    """
    figures = {
        number: found for number, entry in enumerate(entries) if (found := _criterion(entry, entries)) is not None
    }
    ranked = []
    for number, entry in enumerate(entries):
        mine = figures.get(number)
        if mine is None or mine.value is None or entry.is_control:
            ranked.append(entry)
            continue
        others = [found for other, found in figures.items() if not entries[other].is_control]
        ranked.append(replace(entry, rank=1 + sum(_is_below(found, mine) for found in others)))
    counts = [entry.rank for entry in ranked]
    ranked = [replace(entry, tied=entry.rank is not None and counts.count(entry.rank) > 1) for entry in ranked]
    order = {id(entry): _criterion(entry, ranked) for entry in ranked}

    def place(entry: Entry) -> tuple[bool, int, float]:
        found = order[id(entry)]
        value = None if found is None else found.value
        return entry.is_control, entry.rank or len(entries) + 1, float("inf") if value is None else value

    return sorted(ranked, key=place)


def common_size(entries: Sequence[Entry]) -> float | None:
    """Return the fraction at which entries without CMD are ranked: the middle one of those that all have."""
    fractions = [{size.fraction for size in entry.sizes if size.ranking == "absolute"} for entry in entries]
    shared = sorted(fraction for fraction in set.intersection(*fractions) if fraction < 1) if fractions else []
    return shared[len(shared) // 2] if shared else None


def describe_criterion(entries: Sequence[Entry]) -> str:
    """Say what the entries of one group are ranked by."""
    if all(entry.cmd.value is not None for entry in entries):
        return "CMD, the area between the curve of held-out faithfulness and 1"
    size = common_size(entries)
    return (
        "nothing, as they share no size" if size is None else f"held-out faithfulness at {100 * size:.4g}% of the edges"
    )


def _criterion(entry: Entry, entries: Sequence[Entry]) -> SeedAverage | None:
    """Return what an entry is ranked by, lower is better."""
    if all(one.cmd.value is not None for one in entries):
        return entry.cmd
    fraction = common_size(entries)
    found = (size.test for size in entry.sizes if size.ranking == "absolute" and size.fraction == fraction)
    test = next(found, _NOTHING)
    return None if test.value is None else _distance_from_one(test)


def _distance_from_one(figure: SeedAverage) -> SeedAverage:
    value, low, high, spread = figure
    distance = None if value is None else abs(1 - value)
    if low is None or high is None:
        return SeedAverage(distance, None, None, spread)
    ends = sorted((abs(1 - low), abs(1 - high)))
    return SeedAverage(distance, 0.0 if low <= 1 <= high else ends[0], ends[1], spread)


def _is_below(one: SeedAverage, other: SeedAverage) -> bool:
    return one.high is not None and other.low is not None and one.high < other.low


def _precisions(records: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in records:
        found.setdefault(row["strategy"], set()).add(row["precision"])
    return found


def _split(rows: Iterable[Mapping[str, Any]], *names: str) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def _make_entry(key: tuple[Any, ...], rows: list[Mapping[str, Any]], several: set[str]) -> Entry:
    model, task, objective, strategy, precision, operating_point = map(str, key)
    by_ranking = {name: [row for row in rows if row["ranking"] == name] for name in ("signed", "absolute", "own")}
    of_sizes = list(_split(by_ranking["absolute"], "fraction").values())
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    sizes = [_make_size(found, seeds) for found in [*of_sizes, by_ranking["own"]] if found]
    of_cells = list({row["folder"]: row for row in rows}.values())
    notes = dict.fromkeys(note for row in of_cells for note in str(row["notes"] or "").split(NOTES) if note)
    return Entry(
        model=model,
        task=task,
        objective=objective,
        strategy=strategy,
        precision=precision,
        operating_point=operating_point,
        method=f"{strategy} ({precision})" if strategy in several else strategy,
        seeds=len(seeds),
        prompts=max(row["prompts_test"] or 0 for row in rows),
        sizes=tuple(sorted(sizes, key=lambda size: size.fraction)),
        cmd=average_over_seeds(by_ranking["absolute"], "cmd"),
        cpr=average_over_seeds(by_ranking["signed"], "cpr"),
        wall_s=_mean(of_cells, "wall_s"),
        peak_mb=_mean(of_cells, "peak_mb"),
        notes=tuple(notes),
        folders=tuple(row["folder"] for row in of_cells),
    )


def _make_size(rows: Sequence[Mapping[str, Any]], seeds: Sequence[Any]) -> Size:
    first = rows[0]
    of_seeds = {row["seed"]: row["faithfulness_test"] for row in rows}
    return Size(
        ranking=first["ranking"],
        fraction=fmean(row["fraction"] for row in rows),
        edges_asked=fmean(row["edges_asked"] for row in rows),
        edges=fmean(row["edges"] for row in rows),
        test=average_over_seeds(rows, "faithfulness_test"),
        train=average_over_seeds(rows, "faithfulness_train"),
        accuracy=average_over_seeds(rows, "accuracy_circuit"),
        of_seeds=tuple(of_seeds.get(seed) for seed in seeds),
    )


def _mean(rows: Iterable[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return fmean(values) if values else None
