"""The computation behind every strategy: captured activations, ablations, masked runs, attribution, editing, search.

Read `prepared_batch` first (one batch of prompts with its captured activations), then `masked_run` (equation (1)). The
subpackages build on these two: `attribution` (first-order effects), `editors` (exact effects in a circuit under edit)
and `search` (ACDC's search). `circuit_run` is equation (1) for one circuit, without what the circuit cannot change.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
