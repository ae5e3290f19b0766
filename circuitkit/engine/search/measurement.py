"""How a search measures the effects of what it tests: on all prompts at once. Racing (`racing.py`) extends it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from circuitkit.engine.editors.base import Editor
from circuitkit.engine.search.items import Item
from circuitkit.engine.search.removals import Removal
from circuitkit.storage.state import SavedState

Margin = Callable[[float], float]


class Measurement:
    """Measures effects on the prompts of the search's editor.

    The search opens readers and removes edges by it, so that a subclass may use other editors beside the search's.
    """

    def __init__(self) -> None:
        self._current: Editor | None = None
        self._estimates = torch.zeros(0, dtype=torch.float64)
        self._effects: list[float] = []

    def start_layer(self, layer: int, kept: Tensor, removals: Sequence[Removal]) -> None:
        """Begin with a layer.

        Args:
            layer: its number.
            kept: the circuit, bool `[edges]`.
            removals: a list to which the search adds what it removes in this layer, after `commit`.
        """
        self._current = None  # so that its captures can be freed before those of the layer's own editor are made

    @property
    def _editor(self) -> Editor:
        assert self._current is not None, "a reader is open"
        return self._current

    def open(self, editor: Editor, reader: int, screened: bool) -> None:
        """Open a reader.

        Args:
            editor: of the search.
            reader: to open.
            screened: groups of edges will be compared with the sum of their estimates.
        """
        self._current = editor
        editor.open(reader)

    def commit(self, removed: Tensor) -> None:
        """Remove edges of the open reader, bool `[U]`."""
        self._editor.commit(removed)

    def estimates(self) -> Tensor:
        """Estimate the effect of every edge of the open reader, `[U]`."""
        self._estimates = self._editor.gradient()
        return self._estimates

    def run(self, rows: Tensor, before: list[int], items: list[Item], margins: Sequence[Margin]) -> int:
        """Test a batch of items.

        Args:
            rows: the edges that each hypothesis removes, bool `[J, U]`.
            before: of each, the place of the hypothesis that it is compared with: 0 is the current circuit, and row n
                has place n + 1.
            items: one per hypothesis.
            margins: of each item, how far an effect is above what it is compared with.

        Returns:
            The number of values computed.
        """
        values = self._editor.values(rows).tolist()
        self._effects = [
            values[row + 1] - values[base] - (float(self._estimates[item.writers].sum()) if item.joint else 0.0)
            for row, (base, item) in enumerate(zip(before, items, strict=True))
        ]
        return len(values)

    def settle(self, number: int, progress: float) -> float:
        """Return the effect to decide an item of the batch by; of a group, minus the sum of its estimates.

        Args:
            number: of the item.
            progress: the share of the search's edges decided before.
        """
        return self._effects[number]

    def is_clear(self, number: int) -> bool:
        """Tell whether an item of the batch needs no more prompts."""
        return True

    def full_effect(self, number: int, removals: Tensor) -> float:
        """Compute the effect of an item again in full precision, on the prompts that it was decided on.

        Args:
            number: of the item.
            removals: what is removed before, and with it, bool `[2, U]`.
        """
        _, before, after = self._editor.values(removals, full=True).tolist()
        return float(after - before)

    def forward_equivalents(self, editor: Editor) -> float:
        """Return the multiply-adds of all values, divided by those of a forward pass of all prompts.

        Args:
            editor: of the search.
        """
        return editor.forward_equivalents

    def footprint(self, editor: Editor) -> dict[str, int]:
        """Count the bytes of all editors by part; `editor` is the search's."""
        return editor.footprint()

    def counts(self) -> dict[str, int]:
        """Return what was counted; the counts of several searches add up."""
        return {}

    def summarize(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Compute what counts, or their sums over several searches, say."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state needed to resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a saved state.

        Raises:
            CircuitKitError: it is not a state of this measurement.
        """
        SavedState(state, "the measurement", self.state_dict().keys())
