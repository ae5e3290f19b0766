"""Editors: a circuit under edit, and the objective's value after removing edges of one reader.

Read `base` first (the interface), then `replay` (slow and short, the reference), then `incremental` (the same values,
computed from what changes).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
