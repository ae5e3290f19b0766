"""The steps of a program: what heads and MLPs read from the residual stream, and what they write to it.

The stream is divided into orthogonal coordinates, each named by a block and a symbol, such as `("token", "a")`. `input`
writes 1 to `("token", x)` at the position of a token x. All other blocks are written by steps; several steps that write
to the same block add up.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

TOKEN = "token"
BOS = "<bos>"
Coordinate = tuple[str, str]
"""Block and symbol."""
Table = Mapping[tuple[str, str], float]
"""A matrix by the symbols of its rows and columns; other entries are 0."""
HARD = 20.0
"""A difference of attention scores that makes the softmax choose one position; half of it is enough (e^-10).

Larger ones would amplify rounding, where prompts leave two positions equally good."""


@dataclass(frozen=True)
class Match:
    """A part of an attention score: `table[a, b]` where the query's position holds a and the key's holds b.

    Attributes:
        query: the block that queries read, or None: a constant query, which reads nothing. The rows of `table` are then
            called "".
        key: the block that keys read.
        table: summed over all symbols a and b, weighted by what the stream holds.
        fixed: the keys read the same in every prompt, such as where BOS is. Then no edge into them matters unless its
            writer's whole output is removed (ablation zero).
    """

    query: str | None
    key: str
    table: Table
    fixed: bool = False


@dataclass(frozen=True)
class Attend:
    """A head: it attends where the scores of `matches` and `offset` are largest, or evenly without both.

    Attributes:
        name: of the step.
        value: the block that values read.
        table: from what values read to what the head writes.
        to: the block that it writes to.
        matches: the parts of the score.
        offset: attend to the position this far back. By learned positions or rotary ones, from constants alone, so that
            queries and keys read nothing.
        fixed_value: values read the same in every prompt; see `Match.fixed`.
    """

    name: str
    value: str
    table: Table
    to: str
    matches: tuple[Match, ...] = ()
    offset: int | None = None
    fixed_value: bool = False


@dataclass(frozen=True)
class Unit:
    """A pair of neurons or a single one of an MLP: max(0, weighted sum + bias), times `writes`.

    The activation function is the model's own; it is so steep that it is the maximum to float32's precision wherever
    the sum is not within 1/4 of 0.

    Attributes:
        reads: weights by coordinate.
        bias: added to the sum.
        writes: by symbol of the block that the step writes to.
    """

    reads: Mapping[Coordinate, float]
    bias: float
    writes: Mapping[str, float]


@dataclass(frozen=True)
class Compute:
    """An MLP.

    Attributes:
        name: of the step.
        units: its neurons.
        to: the block that it writes to.
    """

    name: str
    units: tuple[Unit, ...]
    to: str


Step = Attend | Compute


@dataclass(frozen=True)
class Output:
    """What the unembedding reads of one block: logits of words, in units of the compiler's logit scale."""

    block: str
    table: Table


@dataclass(frozen=True)
class Reads:
    """What one reader reads.

    Attributes:
        coordinates: all of it.
        varying: the part that differs between prompts.
    """

    coordinates: frozenset[Coordinate]
    varying: frozenset[Coordinate]


def reads_of(step: Step) -> dict[str, Reads]:
    """Return what the readers of a step read, by kind: `q`, `k` and `v`, or `mlp`."""
    if isinstance(step, Compute):
        coordinates = frozenset(one for unit in step.units for one in unit.reads)
        return {"mlp": Reads(coordinates, coordinates)}
    value = frozenset((step.value, symbol) for symbol, _ in step.table)
    query = frozenset((one.query, symbol) for one in step.matches if one.query is not None for symbol, _ in one.table)
    every, varying = (
        frozenset((one.key, symbol) for one in step.matches if not (leave and one.fixed) for _, symbol in one.table)
        for leave in (False, True)
    )
    return {
        "q": Reads(query, query),
        "k": Reads(every, varying),
        "v": Reads(value, frozenset() if step.fixed_value else value),
    }


def writes_of(step: Step) -> frozenset[Coordinate]:
    """Return the coordinates that a step writes to."""
    if isinstance(step, Attend):
        return frozenset((step.to, symbol) for _, symbol in step.table)
    return frozenset((step.to, symbol) for unit in step.units for symbol in unit.writes)


def copy(symbols: Iterable[str], weight: float = 1.0) -> Table:
    """Make a multiple of the identity on some symbols."""
    return {(symbol, symbol): weight for symbol in symbols}


def sum_to(symbols: Iterable[str], target: str, weight: float = 1.0) -> Table:
    """Make a table from each of some symbols to one."""
    return {(symbol, target): weight for symbol in symbols}


def constant_query(symbols: Iterable[str], weight: float = HARD) -> Table:
    """Make the table of a `Match` with a constant query: keys with these symbols get `weight`."""
    return {("", symbol): weight for symbol in symbols}


def all_of(coordinates: Iterable[Coordinate], writes: Mapping[str, float]) -> Unit:
    """Make a unit that writes `writes` where each coordinate holds 1, and nothing where one holds 0."""
    reads = dict.fromkeys(coordinates, 1.0)
    return Unit(reads, 0.5 - len(reads), {symbol: 2 * weight for symbol, weight in writes.items()})


def at_least(reads: Mapping[Coordinate, float], least: float, writes: Mapping[str, float]) -> tuple[Unit, ...]:
    """Make two units that together write `writes` where a weighted sum is `least` or more.

    Nothing is written up to `least - 1/2`, and a part of it in between.
    """
    doubled = {coordinate: 2 * weight for coordinate, weight in reads.items()}
    minus = {symbol: -weight for symbol, weight in writes.items()}
    return Unit(doubled, 1 - 2 * least, writes), Unit(doubled, -2 * least, minus)
