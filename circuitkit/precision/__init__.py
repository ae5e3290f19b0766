"""Precision policies: which weights every node computes with while the edges of a reader are tested.

Read `base` first: the interface, whose defaults are full precision. Then `pahq`: one head in full precision, the
others in low precision.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
