"""Training masks over edges, shared by annealed pruning, edge pruning, matryoshka attribution and subnetwork probing.

Read `hard_concrete` first (the gates' distribution), then `training_prompts` (a step's batch, and its gradient) and
`trainer` (the training on `lightning.Trainer`). `trained_strategy` is what the methods have in common. `soft_top` is
the mask of a ranking.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
