"""What an evaluation returns: circuits' points, their figures with intervals, and the value of every prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from circuitkit.errors import UsageError
from circuitkit.evaluation import intervals
from circuitkit.evaluation.columns import POINT_COLUMNS, figure_cells, make_frame, negate
from circuitkit.evaluation.intervals import Figure
from circuitkit.evaluation.measures import ACCURACY, Values
from circuitkit.evaluation.minimality import EdgeEffect
from circuitkit.evaluation.sizes import SIZES
from circuitkit.storage.shapes import check_shape

if TYPE_CHECKING:
    from pandas import DataFrame

Ranking = Literal["signed", "absolute", "greedy", "random", "own", "complement"]
CURVES: tuple[Ranking, ...] = ("signed", "absolute", "random")
"""The rankings that are evaluated by default."""


@dataclass(frozen=True)
class Measured:
    """One measure of one circuit, over the prompts.

    Attributes:
        value: the mean. An objective's is lower for a better circuit; an accuracy is a fraction.
        faithfulness: 1 for the full model's value, 0 for the ablated one's; None for the accuracy.
    """

    value: Figure
    faithfulness: Figure | None = None


@dataclass(frozen=True)
class Point:
    """A circuit of one size.

    Attributes:
        ranking: how the edges were chosen: by signed or absolute score, greedily from the logits by absolute score
            (`greedy`), at random, by the method itself (`own`), or all edges except the method's (`complement`).
        fraction: the requested fraction of the edges.
        edges_asked: the requested number of edges.
        edges: how many were left after unconnected edges were dropped.
        measures: by name, the searched objective first.
    """

    ranking: Ranking
    fraction: float
    edges_asked: int
    edges: int
    measures: Mapping[str, Measured]

    @property
    def searched(self) -> Measured:
        """Return the measure that was searched for."""
        return next(iter(self.measures.values()))

    @property
    def value(self) -> float | None:
        """Return the mean of the searched objective, lower is better."""
        return self.searched.value.value

    @property
    def faithfulness(self) -> float | None:
        """Return the faithfulness in the searched objective; None where full and ablated model do equally well."""
        return None if self.searched.faithfulness is None else self.searched.faithfulness.value


@dataclass(frozen=True)
class Areas:
    """The areas of one ranking's curve, in the searched objective.

    Attributes:
        cpr: under the curve; cmd: between the curve and 1.
    """

    cpr: Figure
    cmd: Figure


@dataclass(frozen=True, repr=False, eq=False)
class Evaluation:
    """A circuit's faithfulness on the prompts of one split.

    Attributes:
        split: of the prompts.
        prompts: how many.
        points: the curves, the circuit's own point unless it is a mere ranking, and its complement. The complement
            tells completeness: a circuit that has all of the behavior leaves none to the other edges, so that their
            faithfulness is near 0 (Wang et al. 2022, arXiv 2211.00593, section 4, where K is the whole circuit).
        full: figures of the full model by measure; ablated: of the ablated one.
        areas: by ranking, if the curve has all of MIB's sizes.
        identity_error: the larger of two differences that should be 0, in units of faithfulness: masked run with all
            edges and plain run; masked run without edges and ablated run.
        seconds: the time that the evaluation took, captures included.
        notes: caveats, such as that faithfulness is undefined.
        templates: of every prompt, or empty.
        minimality: effects of edges sampled from the circuit, if any were asked for. In a minimal circuit no edge is
            useless: each has an effect (the same section, where K is empty).
        values: by measure, `[points + edges + 2, prompts]`: of every point in order, the circuit without each edge of
            `minimality`, the full model and the ablated one.
    """

    split: str
    prompts: int
    points: list[Point]
    full: Mapping[str, Figure]
    ablated: Mapping[str, Figure]
    areas: Mapping[str, Areas]
    identity_error: float
    seconds: float
    notes: list[str] = field(default_factory=list)
    templates: tuple[str, ...] = ()
    minimality: list[EdgeEffect] = field(default_factory=list)
    values: Values = field(default_factory=dict)

    @property
    def objective(self) -> str:
        """Return the name of the searched objective."""
        return next(iter(self.full))

    @property
    def cpr(self) -> float | None:
        """Return MIB's CPR: the area under the signed curve."""
        return self._area("signed", "cpr")

    @property
    def cmd(self) -> float | None:
        """Return MIB's CMD: the area between the absolute curve and 1."""
        return self._area("absolute", "cmd")

    @property
    def random_cpr(self) -> float | None:
        """Return the random control's CPR."""
        return self._area("random", "cpr")

    @property
    def random_cmd(self) -> float | None:
        """Return the random control's CMD."""
        return self._area("random", "cmd")

    def _area(self, ranking: str, name: str) -> float | None:
        found: Figure | None = getattr(self.areas.get(ranking), name, None)
        return None if found is None else found.value

    def curve(self, ranking: Ranking) -> list[Point]:
        """Return the points of one ranking, from the smallest circuit to the largest."""
        return [point for point in self.points if point.ranking == ranking]

    def per_prompt(
        self, point: Point | EdgeEffect | Literal["full", "ablated"], measure: str | None = None
    ) -> np.ndarray:
        """Return the value of every prompt, float64 `[prompts]`.

        Args:
            point: one of `points`, the full or the ablated model, or one of `minimality` for the circuit without it.
            measure: its name; by default the searched objective.

        Raises:
            UsageError: it has no such point or measure.
        """
        name = measure or self.objective
        rows: list[Any] = [*self.points, *self.minimality, "full", "ablated"]
        if name not in self.values or point not in rows:
            problem = f"The evaluation has no values of {name!r} for {point!r}."
            raise UsageError(problem, f"Choose one of its points, and of {', '.join(self.values) or 'no measures'}.")
        found: np.ndarray = self.values[name][rows.index(point)]
        return found

    def by_template(self, point: Point, measure: str | None = None) -> dict[str, Measured]:
        """Return a measure of the prompts of each template; empty if the prompts have no templates.

        Args:
            point: one of `points`.
            measure: its name; by default the searched objective.
        """
        name = measure or self.objective
        parts = [self.per_prompt(which, name) for which in (point, "full", "ablated")]
        of_prompts = np.array(self.templates)
        return {
            template: measure_rows(name, *(part[of_prompts == template] for part in parts))[0]
            for template in sorted(set(self.templates))
        }

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a row per point, with the columns `POINT_COLUMNS`; None where a figure is not known."""
        return [self._row(point) for point in self.points]

    def to_pandas(self) -> "DataFrame":
        """Return a table with a row per point (`evaluation.POINT_COLUMNS`).

        `X_low` and `X_high` are the ends of the 95% interval of `X` over prompts. Columns are those of a comparison's
        `results.csv` without the name of the split, which is a column here.
        """
        return make_frame(self.to_rows(), POINT_COLUMNS)

    def _row(self, point: Point) -> dict[str, Any]:
        row: dict[str, Any] = dict.fromkeys(POINT_COLUMNS)
        row |= {name: getattr(self, name) for name in ("split", "objective", "prompts")}
        row |= {name: getattr(point, name) for name in ("ranking", "fraction", "edges_asked", "edges", "value")}
        row |= {"full": self.full[self.objective].value, "ablated": self.ablated[self.objective].value}
        row |= figure_cells("faithfulness", point.searched.faithfulness)
        if areas := self.areas.get(point.ranking):
            row |= figure_cells("cpr", areas.cpr) | figure_cells("cmd", areas.cmd)
        for name in ("logit_difference", "kl"):
            if name in point.measures:
                row |= figure_cells(f"{name}_faithfulness", point.measures[name].faithfulness)
        if (name := "logit_difference") in point.measures:  # the objective is lower for a better circuit
            row |= figure_cells(name, negate(point.measures[name].value))
            row |= figure_cells(f"{name}_model", negate(self.full[name]))
        if "kl" in point.measures:
            row |= figure_cells("kl", point.measures["kl"].value)
        if ACCURACY in point.measures:
            row |= figure_cells("accuracy_circuit", point.measures[ACCURACY].value)
            row |= figure_cells("accuracy_model", self.full[ACCURACY])
        return row

    def __repr__(self) -> str:
        parts = [f"{self.prompts} prompts, {self.split}"]
        areas = {"CPR": self.cpr, "CMD": self.cmd, "own": next((own.faithfulness for own in self.curve("own")), None)}
        parts += [f"{name} {value:.3f}" for name, value in areas.items() if value is not None]
        sizes = len({point.fraction for point in self.points if point.ranking in (*CURVES, "greedy")})
        return f"Evaluation({sizes} size{'s' * (sizes != 1)}, {', '.join(parts)})"

    def __eq__(self, other: object) -> bool:
        """Compare everything but the time it took."""
        if not isinstance(other, Evaluation):
            return NotImplemented
        same = {**self.to_dict(), "seconds": 0} == {**other.to_dict(), "seconds": 0}
        same = same and self.values.keys() == other.values.keys()
        return same and all(np.array_equal(one, other.values[name]) for name, one in self.values.items())

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the values of single prompts as plain values, for JSON."""
        names = ("split", "prompts", "identity_error", "seconds", "notes")
        return {
            **{name: getattr(self, name) for name in names},
            "templates": list(self.templates),
            "points": [_point_to_dict(point) for point in self.points],
            "minimality": [{"edge": one.edge, "effect": one.effect._asdict()} for one in self.minimality],
            **{end: {name: one._asdict() for name, one in getattr(self, end).items()} for end in ("full", "ablated")},
            "areas": {
                ranking: {"cpr": found.cpr._asdict(), "cmd": found.cmd._asdict()}
                for ranking, found in self.areas.items()
            },
        }

    @classmethod
    def from_dict(cls, found: Any, values: Values) -> Self:
        """Make an evaluation of what `to_dict` returns, and the values of single prompts.

        Raises:
            ValueError: something is missing, or is not of its kind.
        """
        check_shape(found, _EVALUATION, "the evaluation")
        for end in ("full", "ablated"):
            check_shape(found[end], dict.fromkeys(found[end], _FIGURE), end)
            if not found[end]:
                raise ValueError(f"the evaluation has no figures of the {end} model")
        if any(one["measures"].keys() != found["full"].keys() for one in found["points"]):
            raise ValueError("a point has other measures than the full model")
        check_shape(found["areas"], {key: {"cpr": _FIGURE, "cmd": _FIGURE} for key in found["areas"]}, "areas")
        names = ("split", "prompts", "identity_error", "seconds", "notes")
        return cls(
            **{name: found[name] for name in names},
            templates=tuple(found["templates"]),
            points=[_point_from_dict(point) for point in found["points"]],
            minimality=[EdgeEffect(one["edge"], _figure(one["effect"])) for one in found["minimality"]],
            full={name: _figure(one) for name, one in found["full"].items()},
            ablated={name: _figure(one) for name, one in found["ablated"].items()},
            areas={ranking: Areas(_figure(one["cpr"]), _figure(one["cmd"])) for ranking, one in found["areas"].items()},
            values=values,
        )


def measure_rows(name: str, rows: np.ndarray, full: np.ndarray, ablated: np.ndarray) -> list[Measured]:
    """Compute the figures of one measure, with intervals.

    Args:
        name: of the measure.
        rows: values `[circuits, prompts]`, or `[prompts]` of one circuit.
        full, ablated: of the two models, `[prompts]`.
    """
    rows = np.atleast_2d(rows)
    if name == ACCURACY:
        return [Measured(figure) for figure in intervals.proportion_figures(rows)]
    values, faithfulness = intervals.mean_figures(rows), intervals.faithfulness_figures(rows, full, ablated)
    return [Measured(values.figure(row), faithfulness.figure(row)) for row in range(len(rows))]


def compute_areas(points: Sequence[Point], values: np.ndarray) -> dict[str, Areas]:
    """Compute CPR and CMD of every ranking whose curve has all of MIB's sizes; points at other sizes are left out.

    Args:
        points: of an evaluation.
        values: of the searched objective: a row per point, others, the full model's and the ablated one's.
    """
    found: dict[str, Areas] = {}
    for ranking in dict.fromkeys(point.ranking for point in points):
        rows = [row for row, point in enumerate(points) if point.ranking == ranking and point.fraction in SIZES]
        if {points[row].fraction for row in rows} == set(SIZES):  # over others, a circuit would have another CPR
            cpr, cmd = (
                intervals.area_figures(values[rows], values[-2], values[-1], SIZES, from_one).figure()
                for from_one in (False, True)
            )
            found[ranking] = Areas(cpr, cmd)
    return found


def _point_to_dict(point: Point) -> dict[str, Any]:
    measures = {
        name: {
            "value": one.value._asdict(),
            "faithfulness": None if one.faithfulness is None else one.faithfulness._asdict(),
        }
        for name, one in point.measures.items()
    }
    return {name: getattr(point, name) for name in _POINT if name != "measures"} | {"measures": measures}


def _point_from_dict(found: dict[str, Any]) -> Point:
    shape = {"value": _FIGURE, "faithfulness": (dict, type(None))}
    check_shape(found["measures"], dict.fromkeys(found["measures"], shape), "measures")
    if not found["measures"]:
        raise ValueError("a point has no measures")
    measures = {
        name: Measured(_figure(one["value"]), _optional_figure(one["faithfulness"]))
        for name, one in found["measures"].items()
    }
    return Point(**{name: found[name] for name in _POINT if name != "measures"}, measures=measures)


def _optional_figure(found: dict[str, Any] | None) -> Figure | None:
    if found is None:
        return None
    check_shape(found, _FIGURE, "faithfulness")
    return _figure(found)


def _figure(found: Mapping[str, Any]) -> Figure:
    return Figure(**{name: found[name] for name in _FIGURE})


_NUMBER = (float, type(None))
_FIGURE = dict.fromkeys(Figure._fields, _NUMBER)
_POINT = {"ranking": str, "fraction": float, "edges_asked": int, "edges": int, "measures": dict}
_EVALUATION = {
    "split": str,
    "prompts": int,
    "points": [_POINT],
    "minimality": [{"edge": str, "effect": _FIGURE}],
    "full": dict,
    "ablated": dict,
    "areas": dict,
    "identity_error": _NUMBER,
    "seconds": _NUMBER,
    "notes": [str],
    "templates": [str],
}
