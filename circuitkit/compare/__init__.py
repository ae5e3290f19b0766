"""Comparisons: a grid of models, tasks, strategies, precisions and seeds, run cell by cell into one table.

Read `grid` first (the cells), then `runner` (how cells run, and the files they write).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
