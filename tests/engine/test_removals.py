"""An editor that follows a search through a layer has the values of one that starts again at every reader."""

import pytest
import torch
from support.prepared import ABLATIONS
from support.tiny import random_batch, tiny

from circuitkit.data.objectives import LogitDifference
from circuitkit.engine.editors.incremental import IncrementalEditor
from circuitkit.engine.prepared_batch import prepare_batches
from circuitkit.engine.search.removals import Follower, remove


@pytest.mark.parametrize("most_updates", [0, 1, 4])
def test_a_follower_has_the_values_of_an_editor_that_starts_again(most_updates, monkeypatch):
    monkeypatch.setattr("circuitkit.engine.search.removals.MOST_UPDATES", most_updates)
    model, batch = tiny("llama"), random_batch(lengths=(6, 5))
    prepared_batches, graph = prepare_batches(model, [batch], LogitDifference(), ABLATIONS[0]()), model.graph
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(len(graph), generator=generator) < 0.8
    follower, again = Follower(IncrementalEditor(prepared_batches, kept)), IncrementalEditor(prepared_batches, kept)
    removals, built, mlp = [], [], graph.reader_index("mlp", 1)
    for count, reader in enumerate(range(mlp, mlp - 8, -1), start=1):
        removed = torch.rand(graph.prefix(reader), generator=generator) < 0.3
        if count in (1, 2, 4, 8):  # what is lacking is of 0, 1, 2 and 4 readers
            follower.follow(kept, removals)
            built.append(follower.built)
            again.restart(remove(graph, kept, removals))
            for editor in (follower.editor, again):
                editor.open(reader)
            assert torch.allclose(follower.editor.values(removed[None]), again.values(removed[None]), atol=1e-10)
            assert torch.equal(follower.editor.kept, again.kept)
        removals.append((reader, removed))
    assert built == {0: [0, 1, 3, 7], 1: [0, 0, 3, 7], 4: [0, 0, 0, 0]}[most_updates]
