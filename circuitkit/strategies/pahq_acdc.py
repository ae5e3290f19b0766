"""PAHQ-ACDC: ACDC with only the head under investigation in full precision."""

from circuitkit.precision.base import PrecisionPolicy
from circuitkit.precision.pahq import PAHQ
from circuitkit.strategies.acdc import ACDC


class PAHQACDC(ACDC):
    """Per-head automatic quantization (Wang et al. 2025, arXiv 2510.23264): ACDC under the policy `PAHQ`.

    Its arguments are ACDC's. The run's `precision`, if given, replaces the default, int8.
    """

    def default_precision(self) -> PrecisionPolicy:
        """Return `PAHQ` in int8: anchored, with rechecks of close decisions."""
        return PAHQ("int8")
