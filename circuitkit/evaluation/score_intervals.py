"""What estimated scores are worth: their intervals over prompts, the signs that are certain, and agreement of halves.

All of it comes from the scores of single prompts that one attribution computes anyway. A score is a mean over prompts.
Its interval is the expanded percentile interval of `intervals`, with fewer resamples, since there are many edges.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy import stats
from torch import Tensor

from circuitkit.circuit.circuit import Circuit
from circuitkit.errors import UsageError
from circuitkit.evaluation.intervals import FEWEST, expand_level

if TYPE_CHECKING:
    from pandas import DataFrame

RESAMPLES = 1999
"""Resamples per interval: its ends move by some 2% of its width with another seed."""
HALVES = 20
"""How often the prompts are divided into two random halves."""
FIRST = 0.01
"""The fraction of the edges whose agreement between halves is measured."""
_AT_ONCE = 2048  # edges: bounds the memory
_COLUMNS = ("score", "low", "high")

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScoreIntervals:
    """The scores of all edges, with 95% intervals over prompts.

    Of edges without any effect, one in twenty has a certain sign by chance.

    Attributes:
        edges: their names.
        score: the estimated effect of removing the edge, float64 `[edges]`.
        low, high: the ends of its interval, float64 `[edges]`.
    """

    edges: Sequence[str]
    score: Array
    low: Array
    high: Array

    @classmethod
    def of_circuit(cls, circuit: Circuit, ends: Mapping[str, Tensor]) -> Self | None:
        """Join a circuit's scores and the ends of their intervals (`low`, `high`); None if there are no ends."""
        if not ends:
            return None
        numbers = (circuit.scores.double(), ends["low"], ends["high"])
        return cls(circuit.graph.names, *(numbers_of_edges.cpu().numpy() for numbers_of_edges in numbers))

    @property
    def sign_certain(self) -> npt.NDArray[np.bool_]:
        """Tell of every edge whether its interval does not contain 0, bool `[edges]`."""
        return np.asarray((self.low > 0) | (self.high < 0), dtype=np.bool_)

    def to_pandas(self) -> "DataFrame":
        """Return a table with a row per edge: `edge`, `score`, `low`, `high`, `sign_certain`."""
        return self._to_arrow().to_pandas()  # type: ignore[no-any-return]

    def to_parquet(self) -> bytes:
        """Write the table of `to_pandas` as a Parquet file."""
        file = io.BytesIO()
        pq.write_table(self._to_arrow(), file, compression="zstd")
        return file.getvalue()

    def _to_arrow(self) -> pa.Table:
        numbers = {name: pa.array(getattr(self, name)) for name in _COLUMNS}
        return pa.table({"edge": pa.array(self.edges), **numbers, "sign_certain": pa.array(self.sign_certain)})

    @classmethod
    def from_parquet(cls, data: bytes, edges: Sequence[str]) -> Self:
        """Read a file that `to_parquet` made.

        Args:
            data: its content.
            edges: the names that it must have.

        Raises:
            ValueError: it is no such file, or is of other edges.
        """
        try:
            table = pq.read_table(io.BytesIO(data), columns=["edge", *_COLUMNS])
            numbers = [np.asarray(table.column(name).to_numpy(), dtype=np.float64) for name in _COLUMNS]
            found = table.column("edge").to_pylist()
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"it is no Parquet file of scores ({type(error).__name__})") from error
        if found != list(edges):
            raise ValueError("it has the scores of other edges than the circuit")
        return cls(edges, *numbers)


def compute_score_intervals(prompt_scores: Tensor, mean: Tensor, seed: int = 0) -> tuple[Array, Array]:
    """Compute the 95% interval of every edge's score, a mean over prompts.

    A resample draws as many prompts as there are, with replacement, the same for all edges.

    Args:
        prompt_scores: `[prompts, edges]`; only deviations from the mean are used. They may be rounded to 16 bits: an
            interval is wider by what rounding can change of the mean.
        mean: the exact means, `[edges]`.
        seed: of the resamples.

    Returns:
        Low and high ends `[edges]`.

    Raises:
        UsageError: there are too few prompts for an interval (`intervals.FEWEST`).
    """
    count = len(prompt_scores)
    if count < FEWEST:
        raise UsageError(f"Scores of {count} prompts have no intervals.", f"Give {FEWEST} prompts or more.")
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    weights = torch.from_numpy(drawn / count).float()
    # The k-th smallest and the k-th largest resampled mean
    k = max(round((1 - expand_level(count)) / 2 * (RESAMPLES + 1)), 1) - 1
    ends: list[list[Array]] = [[], []]
    for scores, center in zip(prompt_scores.split(_AT_ONCE, 1), mean.double().split(_AT_ONCE), strict=True):
        slack = (scores.abs().double().mean(0) * torch.finfo(scores.dtype).eps / 2).numpy()
        scores = scores.float()
        deviations = ((scores - scores.mean(0)).T @ weights.T).numpy()  # [edges, resamples]
        deviations.sort(axis=1)  # of float32 in rows, several times as fast as a partition
        for end, place, sign in zip(ends, (k, RESAMPLES - 1 - k), (-1, 1), strict=True):
            end.append(center.numpy() + deviations[:, place] + sign * slack)
    low, high = map(np.concatenate, ends)
    return low, high


def compute_half_agreement(prompt_scores: Tensor, seed: int = 0) -> tuple[float, float]:
    """Compute how far rankings by |score| from two random halves of the prompts agree, mean over `HALVES` divisions.

    A half's ranking is from half as many prompts, so that the whole's is better than this says.

    Args:
        prompt_scores: `[prompts, edges]`, of two prompts or more.
        seed: of the divisions.

    Returns:
        Spearman's rank correlation over all edges (NaN if all are tied), and the Jaccard index of the first 1% of the
        edges.
    """
    first = max(round(FIRST * prompt_scores.shape[1]), 1)
    correlations, indices = [], []
    for one, other in zip(*_half_means(prompt_scores, seed), strict=True):
        tied = np.ptp(one) == 0 or np.ptp(other) == 0
        correlations.append(np.nan if tied else stats.spearmanr(one, other).statistic)
        tops = [set(np.argsort(-half, kind="stable")[:first].tolist()) for half in (one, other)]
        indices.append(len(tops[0] & tops[1]) / len(tops[0] | tops[1]))
    return float(np.mean(correlations)), float(np.mean(indices))


def _half_means(prompt_scores: Tensor, seed: int) -> tuple[Array, Array]:
    """Compute |mean score| of random halves, `[HALVES, edges]` each; of an odd number of prompts one is left out."""
    count, draw = len(prompt_scores), np.random.default_rng(seed)
    weights = np.zeros((2, HALVES, count), dtype=np.float32)
    for division in range(HALVES):
        order, half = draw.permutation(count), count // 2
        weights[0, division, order[:half]] = weights[1, division, order[half : 2 * half]] = 1 / half
    both = torch.from_numpy(weights).flatten(0, 1)
    means = torch.cat([both @ scores.float() for scores in prompt_scores.split(_AT_ONCE, 1)], 1).abs().numpy()
    return means[:HALVES], means[HALVES:]
