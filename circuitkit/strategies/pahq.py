"""PAHQ-ACDC: ACDC with only the head under investigation in full precision."""

from circuitkit.precision.per_head import PerHeadQuantization
from circuitkit.precision.policy import PrecisionPolicy
from circuitkit.strategies.acdc import ACDC


class PAHQACDC(ACDC):
    """Per-head automatic quantization (Wang et al. 2025, arXiv 2510.23264): ACDC under `PerHeadQuantization`.

    Its arguments are ACDC's. Another `precision` replaces the 8 bits that it runs in by default.
    """

    def default_precision(self) -> PrecisionPolicy:
        """Int8, anchored, doubts settled."""
        return PerHeadQuantization("int8")
