"""First-order effects of removing edges, from one backward pass per batch.

Read `edge_scores` first; `reader_gradients` has the pass that gives the gradient at every reader's input.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
