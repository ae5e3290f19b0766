"""Prepared batches of random prompts for tiny models."""

from circuitkit.data.objectives import LogitDifference
from circuitkit.engine.ablation import Mean, Resample, Zero
from circuitkit.engine.prepared_batch import PreparedBatch

ABLATIONS = [Resample, Mean, Zero]


def prepare(model, batch, ablation=Resample, objective=LogitDifference):
    made = ablation()
    made.fit(model, [batch])
    return PreparedBatch(model, batch, objective(), made)
