"""From a program to weights, in the program's coordinates of the residual stream and then in the model's.

Every coordinate is a direction of the stream; the directions are orthonormal and chosen at random by the seed,
orthogonal to (1, ..., 1), so that LayerNorm subtracts nothing. The first layer's attention adds a constant (its output
bias) of length `CONSTANT`, to which all that steps write is small: so the norms after it divide by a number that is
known to about one part in 100, whatever edges are removed. Readers are orthogonal to it.

Matrices of readers apply to coordinates as they are before the norm; `unnorm` accounts for its scale, weight and bias.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from circuitkit.truth.placement import Placement
from circuitkit.truth.steps import HARD, TOKEN, Attend, Compute, Coordinate, Output, Step, Table, reads_of, writes_of

CONSTANT = 16.0
SHARPNESS = 32.0
"""The factor of what goes into an activation function; what comes out is divided by it."""
LOGIT_SCALE = 10.0
JUNK = 8
"""Coordinates that only distractors write to and read."""
DISTRACTION = 0.5
"""The typical length of what a distractor writes."""
ECHO = 0.2
"""The weight with which distractors read each other; with 1, many layers of them amplify rounding a thousandfold."""
_NARROWEST, _HIDDEN, _TURNING = 8, 16, 4
_STILL = 0.02  # an angle, in radians, by which no position turns the dimensions of matches


@dataclass(frozen=True)
class Shape:
    """The sizes of a model.

    Attributes:
        coordinates: the number of each coordinate among the K: blocks, positions (of a model that learns them), junk.
        positions: the numbers of the coordinates of positions; empty if they are rotary.
        junk: the numbers of the coordinates of distractors.
        length: of the prompts.
        width, head_width, hidden: D, E, and the width of the MLPs.
        turning: pairs of dimensions of each head that rotary positions turn noticeably.
    """

    placement: Placement
    coordinates: dict[Coordinate, int]
    positions: range
    junk: range
    length: int
    width: int
    head_width: int
    hidden: int
    turning: int

    @property
    def size(self) -> int:
        """Return K."""
        return self.junk.stop

    @property
    def rotary_base(self) -> float:
        """Return the base of the frequencies, by which pairs after the `turning` first ones hardly turn."""
        ratio = (_STILL / self.length) ** (1 / self.turning)
        return float(ratio ** (-self.head_width / 2))


@dataclass(frozen=True)
class Weights:
    """Weights in coordinates, float64.

    Attributes:
        q, k, v, o: `[L, H, E, K]`.
        q_bias, k_bias: `[L, H, E]`.
        mlp_in, mlp_out: `[L, F, K]`.
        mlp_bias: `[L, F]`.
        unembedding: `[V, K]`.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    q_bias: Tensor
    k_bias: Tensor
    mlp_in: Tensor
    mlp_out: Tensor
    mlp_bias: Tensor
    unembedding: Tensor


def measure(
    steps: Sequence[Step], words: Sequence[str], length: int, placement: Placement, learned_positions: bool
) -> Shape:
    """Choose the sizes of the model: as small as the program allows."""
    names: dict[Coordinate, int] = {(TOKEN, word): number for number, word in enumerate(words)}
    for step in steps:
        for coordinate in sorted(writes_of(step).union(*(one.coordinates for one in reads_of(step).values()))):
            names.setdefault(coordinate, len(names))
    positions = range(len(names), len(names) + (length if learned_positions else 0))
    junk = range(positions.stop, positions.stop + JUNK)
    heads = [step for step in steps if isinstance(step, Attend)]
    turning = 0 if learned_positions else _TURNING
    needed = [_NARROWEST]
    for step in heads:
        of_matches = sum(len(_smaller_side(one.table)) for one in step.matches)
        of_positions = length * (step.offset is not None) if learned_positions else 2 * turning
        needed += [of_matches + of_positions, len(_smaller_side(step.table))]
    head_width = max(needed) + max(needed) % 2
    width = max(junk.stop + 2, placement.heads * head_width if learned_positions else 0)  # 2: constant, (1, ..., 1)
    width += -width % placement.heads
    if learned_positions:
        head_width = width // placement.heads
    hidden = max([_HIDDEN, *(len(step.units) for step in steps if isinstance(step, Compute))])
    return Shape(placement, names, positions, junk, length, width, head_width, hidden, turning)


def compile_steps(
    steps: Sequence[Step], outputs: Sequence[Output], shape: Shape, words: Sequence[str], distractors: int, seed: int
) -> Weights:
    """Make the weights.

    Args:
        steps, outputs: the program.
        shape: of the model.
        words: of the vocabulary.
        distractors: the number of free heads and MLPs that read everything and write junk.
        seed: of the distractors.
    """
    layers, heads, width, k = shape.placement.layers, shape.placement.heads, shape.head_width, shape.size
    by_head, of_mlp = (layers, heads, width), (layers, shape.hidden)
    sizes = [(*by_head, k)] * 4 + [by_head] * 2 + [(*of_mlp, k)] * 2 + [of_mlp, (len(words), k)]
    weights = Weights(*(torch.zeros(size, dtype=torch.float64) for size in sizes))
    for step in steps:
        if isinstance(step, Attend):
            _compile_head(step, shape, weights)
        else:
            _compile_mlp(step, shape, weights)
    for output in outputs:
        for (symbol, word), weight in output.table.items():
            weights.unembedding[words.index(word), shape.coordinates[output.block, symbol]] += LOGIT_SCALE * weight
    _add_distractors(shape, weights, distractors, seed)
    return weights


def _smaller_side(table: Table) -> list[str]:
    """Return the symbols of a table's rows, or those of its columns if they are fewer."""
    sides = [list(dict.fromkeys(pair[side] for pair in table)) for side in (0, 1)]
    return min(sides, key=len)


def _compile_head(step: Attend, shape: Shape, weights: Weights) -> None:
    node = shape.placement.nodes[step.name]
    at = (node.layer, node.head)
    q, k, q_bias, k_bias = weights.q[at], weights.k[at], weights.q_bias[at], weights.k_bias[at]
    if step.offset is not None:
        _attend_back(step.offset, shape, q, k, q_bias, k_bias)
    free = iter(_still_dimensions(step, shape))
    for match in step.matches:
        side = _smaller_side(match.table)
        by_query = side == list(dict.fromkeys(query for query, _ in match.table))
        dimensions = {symbol: next(free) for symbol in side}
        for (query, key), weight in match.table.items():
            dimension = dimensions[query if by_query else key]
            # The sum over pairs is in the other side's row; this side has 1 for its own symbol
            if match.query is None:
                q_bias[dimension] = 1.0 if by_query else weight
            else:
                q[dimension, shape.coordinates[match.query, query]] = 1.0 if by_query else weight
            k[dimension, shape.coordinates[match.key, key]] = weight if by_query else 1.0
    for part in (q, q_bias):
        part.mul_(math.sqrt(shape.head_width))  # the model divides scores by it
    side = _smaller_side(step.table)
    by_value = side == list(dict.fromkeys(value for value, _ in step.table))
    for (value, written), weight in step.table.items():
        dimension = side.index(value if by_value else written)
        weights.v[at][dimension, shape.coordinates[step.value, value]] = 1.0 if by_value else weight
        weights.o[at][dimension, shape.coordinates[step.to, written]] = weight if by_value else 1.0


def _attend_back(offset: int, shape: Shape, q: Tensor, k: Tensor, q_bias: Tensor, k_bias: Tensor) -> None:
    """Add `HARD` or more to the score of the position `offset` before, relative to all others."""
    if shape.positions:
        for position, coordinate in enumerate(shape.positions):
            k[position, coordinate] = 1.0
            if position + offset < shape.length:
                q[position, shape.positions[position + offset]] = HARD
        return
    half = shape.head_width // 2
    for pair in range(shape.turning):
        # cos(frequency * (distance - offset)), summed over the pairs: below its maximum by more than 0.4 elsewhere
        angle = offset * shape.rotary_base ** (-pair / half)
        q_bias[pair] = HARD / 0.4
        k_bias[pair], k_bias[pair + half] = math.cos(angle), math.sin(angle)


def _still_dimensions(step: Attend, shape: Shape) -> list[int]:
    """List the dimensions of a head for its matches: those that positions do not use, and do not turn."""
    if shape.positions:
        return list(range(shape.length if step.offset is not None else 0, shape.head_width))
    half = shape.head_width // 2
    return [pair + part for pair in range(shape.turning, half) for part in (0, half)]


def _compile_mlp(step: Compute, shape: Shape, weights: Weights) -> None:
    layer = shape.placement.nodes[step.name].layer
    for number, unit in enumerate(step.units):
        for coordinate, weight in unit.reads.items():
            weights.mlp_in[layer, number, shape.coordinates[coordinate]] = SHARPNESS * weight
        weights.mlp_bias[layer, number] = SHARPNESS * unit.bias
        for symbol, weight in unit.writes.items():
            weights.mlp_out[layer, number, shape.coordinates[step.to, symbol]] = weight / SHARPNESS


def _add_distractors(shape: Shape, weights: Weights, count: int, seed: int) -> None:
    """Give random weights to free nodes: they read all coordinates, and write to junk."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    def reading(*size: int) -> Tensor:
        found = noise(*size, shape.size)
        found[..., junk] *= ECHO
        return found

    width, hidden, free = shape.head_width, shape.hidden, shape.placement.free
    junk, size = slice(shape.junk.start, shape.junk.stop), DISTRACTION / math.sqrt(JUNK)
    for node in Random(f"distractors {seed}").sample(free, min(count, len(free))):
        if node.head is None:
            weights.mlp_in[node.layer] = reading(hidden)
            weights.mlp_out[node.layer, :, junk] = noise(hidden, JUNK) * size / math.sqrt(hidden)
            continue
        at = (node.layer, node.head)
        weights.q[at], weights.k[at] = reading(width), reading(width)
        weights.v[at] = reading(width) / math.sqrt(3)  # about as many coordinates are 1
        weights.o[at][:, junk] = noise(width, JUNK) * size / math.sqrt(width)
