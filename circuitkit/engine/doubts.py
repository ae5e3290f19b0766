"""Decisions taken in low precision that are repeated in full precision.

A decision is in doubt when |effect - threshold| < delta. Delta starts as a quarter of the threshold. An *audit* of
single tests, spread evenly over the search, repeats decisions that are in no doubt, to see how large the error of an
effect is; delta grows to five times the error's 99th percentile where that is larger. Decisions taken earlier inside a
delta that grew later are counted as possibly missed.
"""

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

AUDITS = 64
"""Tests that are repeated to see how large the error is."""
FIRST_DELTA = 0.25
"""Delta at the start, of the threshold."""
MARGIN = 5.0
"""Delta over the 99th percentile of the error, at least."""
UNDECIDABLE = 0.5
"""Part of the threshold beyond which this margin means that the precision cannot decide it."""
_QUANTILES = {"error_median": 0.5, "error_p90": 0.9, "error_p99": 0.99, "error_max": 1.0}


@dataclass
class Doubts:
    """What a search repeats, and what that has shown.

    Attributes:
        threshold: of the search, in the objective's units.
        edges: of the graph: the search is through when so many are decided.
        delta: decisions nearer to the threshold are repeated.
        repeated: how many were, because they were in doubt; turned: how many fell otherwise in full precision.
        audited: how many others were repeated; missed: how many of these fell otherwise.
        gaps: |effect - threshold| of the decisions that were not repeated.
        errors: |effect in low precision - in full precision| of the audited ones.
    """

    threshold: float
    edges: int
    delta: float = field(init=False)
    repeated: int = 0
    turned: int = 0
    audited: int = 0
    missed: int = 0
    gaps: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.delta = FIRST_DELTA * abs(self.threshold)

    def wants(self, gap: float, decided: int) -> bool:
        """Whether to repeat a decision in full precision.

        Args:
            gap: |effect - threshold| in low precision.
            decided: how many edges were decided before.
        """
        audit = self.audited * self.edges <= AUDITS * decided and self.audited < AUDITS
        if gap >= self.delta and not audit:
            self.gaps.append(gap)
            return False
        return True

    def settled(self, gap: float, error: float, turned: bool) -> None:
        """Note what a repeated decision has shown.

        Args:
            gap: |effect - threshold| in low precision.
            error: |effect in low precision - in full precision|.
            turned: whether it fell otherwise.
        """
        if gap < self.delta:
            self.repeated += 1
            self.turned += turned
            return
        self.audited += 1
        self.missed += turned
        self.errors.append(error)
        self.delta = max(self.delta, MARGIN * float(np.quantile(self.errors, 0.99)))

    def counted(self) -> dict[str, int]:
        """What is counted, for a result's metrics."""
        return {
            "doubts_repeated": self.repeated,
            "doubts_turned": self.turned,
            "doubts_audited": self.audited,
            "doubts_missed_in_audit": self.missed,
            "doubts_possibly_missed": int((np.array(self.gaps) < self.delta).sum()),
        }

    def report(self, advice: str) -> dict[str, float]:
        """Delta, the rate of missed decisions in the audit, and the error's quantiles; warns where they are too large.

        Args:
            advice: what to choose where this precision cannot decide the threshold.
        """
        found = {
            "doubts_missed_rate": self.missed / self.audited if self.audited else 0.0,
            "doubts_delta": self.delta,
        }
        if self.errors:
            found |= {name: float(np.quantile(self.errors, share)) for name, share in _QUANTILES.items()}
            margin = MARGIN * found["error_p99"]
            if margin > UNDECIDABLE * abs(self.threshold):
                warnings.warn(
                    f"This precision cannot decide the threshold {self.threshold:g}: its effects are off by up to "
                    f"{found['error_p99']:.2g}. Choose {advice}.",
                    stacklevel=2,
                )
        return found

    def state_dict(self) -> dict[str, Any]:
        """What it takes to go on."""
        return {**vars(self), "errors": list(self.errors), "gaps": torch.tensor(self.gaps, dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        vars(self).update(state, gaps=state["gaps"].tolist())
