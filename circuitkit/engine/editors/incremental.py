"""The incremental editor: the replay editor's values, computed only where a removal changes something.

Steps:

1. `_rebuild`: when a reader of another layer is opened, compute the live state of that layer and all later ones
   (`LiveState`: every writer's difference o - õ, every reader's input, every head's query, key and value).
2. `_update`: when another reader of the same layer is opened, update the live state for the edges that were removed
   from the last reader. Step 1 starts again at every layer, so rounding errors do not add up over thousands of updates.
3. `_plan`: plan the open reader's cone, once for all hypotheses (`Cone`).
4. `gradient`: estimate the effect of every edge of the reader, from one gradient through the cone.
5. `values`: run the cone for a batch of hypotheses. Each also removes the edges committed since the reader was opened.
6. `commit`: add the removed edges to the committed ones.

If the weights depend on the reader (a precision policy), steps 1 and 3 are done for every reader with its weights.

The values are exact. They are fast for four reasons:

- *Upstream is constant.* Readers are opened from the logits backwards, so every writer before the open reader has the
  output that it had in the starting circuit, and removing w -> r adds the constant õ_w - o_w to the input of r.
- *Only the cone.* The change reaches the objective through kept edges only. The nodes on these paths are the *cone* of
  the open reader; no others are computed.
- *Only the needed positions.* A node that only the logits read is needed only at the answer positions. The same holds
  for a node that is read only by the logits and by queries and MLPs that are themselves needed only there. Every other
  node is needed at all positions, because some key or value depends on it.
- *Only from the first difference on.* Before it, clean and ablated outputs are equal, and nothing changes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from circuitkit.engine.editors.base import Editor
from circuitkit.engine.editors.cone import Cone
from circuitkit.engine.editors.live_state import LiveState
from circuitkit.engine.prepared_batch import PreparedBatch

LARGEST_BATCH = 512
"""The largest number of hypotheses in a batch; larger batches are no faster."""
LARGEST_BYTES = 32 << 20
"""On a CPU, the most memory of a batch, unless `ENOUGH_ROWS` take more; larger batches are no faster."""
ENOUGH_ROWS = 384
"""With this many rows, a matrix product reaches its full speed on a CPU."""


class IncrementalEditor(Editor):
    """Computes the values of removals through the cone of the open reader.

    Args:
        prepared_batches: the prompts, in one batch or several.
        kept: the starting circuit, bool `[edges]`.
        memory_budget: bytes for the hypotheses that run together; by default half of what is free.
    """

    def __init__(
        self,
        prepared_batches: Sequence[PreparedBatch],
        kept: Tensor | None = None,
        memory_budget: int | None = None,
    ) -> None:
        super().__init__(prepared_batches, kept, memory_budget)
        self._states = [LiveState(prepared, self.kept) for prepared in prepared_batches]
        self._cones: list[Cone] = []
        self._block = -1
        self._layer = -1
        self._committed = torch.zeros(0, dtype=torch.float32)
        # Rebuild for every reader: the weights depend on it, or rechecks repeat its values in full precision
        self._per_reader = self.policy.depends_on_reader or self.policy.rechecks_close
        self._built_full: bool | None = None  # is the live state in full precision? None: not built

    def restart(self, kept: Tensor) -> None:
        """See the base class; the live state is computed again at the next reader, also within a layer."""
        super().restart(kept)
        self._cones, self._block, self._layer, self._built_full = [], -1, -1, None

    def open(self, reader: int) -> None:
        """Open a reader: steps 1 to 3, unless they must wait for the precision (see `_build_for_reader`)."""
        if self._per_reader:
            super().open(reader)
            self._built_full = None
            return
        self._update()
        super().open(reader)
        block = self.graph.block(reader)
        if block.layer != self._layer:
            self._rebuild()
            self._layer = block.layer
        elif block.readers.start != self._block:
            for state in self._states:
                state.look_downstream(self.kept)
        self._block = block.readers.start
        self._plan()

    def _rebuild(self) -> None:
        layer = min(self.graph.block(self.reader).layer, self.graph.layers)
        for state in self._states:
            state.rebuild(self.kept, layer)

    def _update(self) -> None:
        if self._cones and self._committed.any():
            for cone in self._cones:
                cone.update(self._committed)

    def _plan(self) -> None:
        self._cones = [Cone(state, self.reader, self.kept) for state in self._states]
        self._committed = torch.zeros(self.graph.prefix(self.reader), dtype=torch.float32)

    def _build_for_reader(self, full: bool) -> None:
        """Under a policy, do steps 1 and 3 in the current precision, unless that is done already."""
        if self._per_reader and self._built_full != full:
            self._rebuild()
            self._plan()
            self._built_full = full

    def gradient(self) -> Tensor:
        """See the base class."""
        total = sum(
            (slopes.sum(1) for slopes in self._slopes()), torch.zeros(len(self._committed), dtype=torch.float64)
        )
        return self._mean(total) * self.kept[self.graph.edges(self.reader)]

    def gradient_by_prompt(self) -> Tensor:
        """See the base class."""
        return self._of_all_prompts(torch.cat(self._slopes(), dim=1)) * self.kept[self.graph.edges(self.reader), None]

    def _slopes(self) -> list[Tensor]:
        """Differentiate each batch's values with respect to what is removed of each edge, `[U, B]`."""
        with self.policy.investigate([self.reader]):
            self._build_for_reader(full=False)
            return [cone.slopes(self._committed).double().cpu() for cone in self._cones]

    def values(self, removals: Tensor, full: bool = False) -> Tensor:
        """See the base class."""
        parts, spent = self._values(self._with_current(removals), full)
        total = torch.zeros(len(removals) + 1, dtype=torch.float64)
        for part in parts:
            total += part.sum(1)
        total = self.processes.sum(torch.cat([total, total.new_tensor([spent])]))  # one message for both
        self.forward_equivalents += float(total[-1])
        return total[:-1] / self.prompts

    def values_by_prompt(self, removals: Tensor, full: bool = False) -> Tensor:
        """See the base class."""
        parts, spent = self._values(removals, full)
        self.forward_equivalents += float(self.processes.sum(torch.tensor(spent, dtype=torch.float64)))
        return self._of_all_prompts(torch.cat(parts, dim=1))

    @torch.no_grad()
    def _values(self, removals: Tensor, full: bool) -> tuple[list[Tensor], float]:
        """Compute each batch's values, `[J, B]`, and this process's part of the forward-equivalents."""
        with self.policy.full() if full else self.policy.investigate([self.reader]):
            self._build_for_reader(full)
            removed = (removals & self.kept[self.graph.edges(self.reader)]) + self._committed  # [J, U]
            found, spent = [], 0.0
            for cone in self._cones:
                parts = removed.tensor_split(-(-len(removed) // self._hypotheses_at_once(cone)))
                found.append(torch.cat([cone.values(part) for part in parts]).double().cpu())
                spent += len(removed) * cone.plan.cost * len(cone.state.prepared.batch) / self.prompts
        return found, spent

    def commit(self, removed: Tensor) -> None:
        """Remove edges of the open reader, bool `[U]`."""
        new = removed & self.kept[self.graph.edges(self.reader)]
        super().commit(removed)
        # If not built yet, the live state will be built from `kept`, which already lacks these edges
        if not self._per_reader or self._built_full is not None:
            self._committed += new

    def footprint(self) -> dict[str, int]:
        """Count the bytes: `captures`, `live` state, and of the open reader `cone` (one hypothesis) and `copies`."""
        return {
            "captures": sum(state.capture_bytes for state in self._states),
            "live": sum(state.live_bytes for state in self._states),
            "cone": sum(cone.plan.bytes_per_hypothesis for cone in self._cones),
            "copies": sum(cone.copied_bytes for cone in self._cones),
        }

    def _hypotheses_at_once(self, cone: Cone) -> int:
        held = sum(state.capture_bytes + state.live_bytes for state in self._states)
        on_cpu = self.model.device.type == "cpu"
        return hypotheses_at_once(cone.plan.bytes_per_hypothesis, cone.plan.rows, self.memory_budget - held, on_cpu)


def hypotheses_at_once(each: int, rows: int, available: int, on_cpu: bool) -> int:
    """Compute how many hypotheses run together, at least one.

    Args:
        each: bytes of one.
        rows: rows of one in the largest matrix products (prompts x positions).
        available: bytes.
        on_cpu: on a CPU, batches are no larger than is fast.
    """
    fitting = max(available // each, 1)
    if on_cpu:
        fitting = min(fitting, max(LARGEST_BYTES // each, -(-ENOUGH_ROWS // rows)))
    return min(LARGEST_BATCH, fitting)
