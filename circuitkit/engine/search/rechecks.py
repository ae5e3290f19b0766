"""Rechecks: decisions taken in low precision that are repeated in full precision.

A decision is *close* if |effect - threshold| < delta; every close decision is rechecked. Delta starts at a quarter of
the threshold. An *audit* rechecks single tests that are not close, spread evenly over the search, to measure the error
of an effect; delta grows to five times the error's 99th percentile if that is larger. Decisions that were not rechecked
but would be close under the final delta are counted as possibly missed.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from circuitkit.storage.state import SavedState

AUDITS = 64
"""The number of tests that the audit rechecks."""
FIRST_DELTA = 0.25
"""Delta at the start, relative to the threshold."""
MARGIN = 5.0
"""The smallest ratio of delta to the 99th percentile of the error."""
UNDECIDABLE = 0.5
"""If MARGIN times the 99th percentile exceeds this fraction of the threshold, the precision cannot decide it."""
_QUANTILES = {"error_median": 0.5, "error_p90": 0.9, "error_p99": 0.99, "error_max": 1.0}


@dataclass
class Rechecks:
    """The rechecks of a search, and their outcomes.

    Attributes:
        threshold: of the search, in the objective's units.
        edges: the number of edges of the starting circuit, over which the audit is spread.
        delta: decisions at a smaller distance from the threshold are close.
        rechecked: the number of close decisions; flipped: how many of them flipped in full precision.
        audited: the number of audited decisions; audits_flipped: how many of them flipped.
        gaps: |effect - threshold| of the decisions that were not rechecked.
        errors: |effect in low precision - in full precision| of the audited decisions.
    """

    threshold: float
    edges: int
    delta: float = field(init=False)
    rechecked: int = 0
    flipped: int = 0
    audited: int = 0
    audits_flipped: int = 0
    gaps: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.delta = FIRST_DELTA * abs(self.threshold)

    def is_due(self, gap: float, decided: int) -> bool:
        """Tell whether to recheck a decision: if it is close, or due for the audit. Otherwise, record its gap.

        Args:
            gap: |effect - threshold| in low precision.
            decided: how many of these edges were decided before.
        """
        audit = self.audited * self.edges <= AUDITS * decided and self.audited < AUDITS
        if gap >= self.delta and not audit:
            self.gaps.append(gap)
            return False
        return True

    def record(self, gap: float, error: float, flipped: bool) -> None:
        """Record the outcome of a recheck.

        Args:
            gap: |effect - threshold| in low precision.
            error: |effect in low precision - in full precision|.
            flipped: whether the decision flipped.
        """
        if gap < self.delta:
            self.rechecked += 1
            self.flipped += flipped
            return
        self.audited += 1
        self.audits_flipped += flipped
        self.errors.append(error)
        self.delta = max(self.delta, MARGIN * float(np.quantile(self.errors, 0.99)))

    def counts(self) -> dict[str, int]:
        """Return the counts, for a result's metrics."""
        return {
            "rechecked": self.rechecked,
            "rechecks_flipped": self.flipped,
            "audited": self.audited,
            "audits_flipped": self.audits_flipped,
            "possibly_missed": int((np.array(self.gaps) < self.delta).sum()),
        }

    def report(self) -> dict[str, float]:
        """Return delta, the rate of flipped decisions in the audit, and the error's quantiles."""
        found = {
            "audit_flip_rate": self.audits_flipped / self.audited if self.audited else 0.0,
            "recheck_delta": self.delta,
        }
        if self.errors:
            found |= {name: float(np.quantile(self.errors, quantile)) for name, quantile in _QUANTILES.items()}
        return found

    def caveats(self, advice: str) -> list[str]:
        """Say whether the error is too large for the threshold; an empty list if it is not.

        Args:
            advice: the choice to recommend in that case.
        """
        error = self.report().get("error_p99", 0.0)
        if MARGIN * error <= UNDECIDABLE * abs(self.threshold):
            return []
        return [
            f"This precision cannot decide the threshold {self.threshold:g}: its effects are off by up to {error:.2g}. "
            f"Choose {advice}."
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the state needed to resume."""
        return {**vars(self), "errors": list(self.errors), "gaps": torch.tensor(self.gaps, dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a saved state.

        Raises:
            CircuitKitError: it is not a state of these rechecks.
        """
        saved = SavedState(state, "the rechecks", vars(self).keys())
        for name in ("threshold", "edges"):
            saved.expect(name, saved[name] == getattr(self, name), str(getattr(self, name)))
        gaps = saved.tensor("gaps", torch.float64, [-1])
        saved.expect("gaps", bool((gaps >= 0).all()), "distances of at least 0")
        self.gaps, self.errors, self.delta = gaps.tolist(), list(saved.numbers("errors")), saved.number("delta")
        saved.expect("errors", len(self.errors) == saved.count("audited", most=AUDITS), "one error per audit")
        self.audited, self.rechecked = saved.count("audited"), saved.count("rechecked")
        self.flipped = saved.count("flipped", most=self.rechecked)
        self.audits_flipped = saved.count("audits_flipped", most=self.audited)
