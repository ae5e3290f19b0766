"""ACDC's greedy search on top of an editor, and estimates of a search's cost.

Read `greedy` first; `rechecks` repeats decisions close to the threshold in full precision.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
