"""Training gates on edges or nodes, shared by edge pruning and subnetwork probing.

Read `hard_concrete` first (the gates' distribution), then `trainer` (the training on `lightning.Trainer`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
