"""A circuit as a pandas table."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from circuitkit.circuit.graph import EdgeGraph
from circuitkit.circuit.score_source import ScoreSource

if TYPE_CHECKING:
    import pandas


def to_pandas(
    graph: EdgeGraph, kept: Tensor, scores: Tensor, score_sources: Tensor, ranking: Tensor
) -> "pandas.DataFrame":
    """Make a table of all edges, as `Circuit.to_pandas` describes."""
    import pandas

    writers, readers = graph.writer_of.tolist(), graph.reader_of.tolist()
    described = [graph.reader(index) for index in range(graph.n_readers)]
    rank = torch.empty_like(ranking)
    rank[ranking] = torch.arange(1, len(ranking) + 1, dtype=rank.dtype)
    columns = {
        "edge": graph.names,
        "writer": [graph.writer_names[writer] for writer in writers],
        "reader": [graph.reader_names[reader] for reader in readers],
        "kind": [described[reader].kind for reader in readers],
        "layer_from": [graph.place_of(writer)[0] for writer in writers],
        "layer_to": [described[reader].layer for reader in readers],
        "score": scores.float().numpy() if scores.dtype == torch.bfloat16 else scores.numpy().copy(),
        "score_source": [ScoreSource(source).name.lower() for source in score_sources.tolist()],
        "kept": kept.numpy().copy(),
        "rank": rank.numpy(),
    }
    return pandas.DataFrame(columns)
