"""Comparisons: a grid of models, tasks, strategies, precisions, objectives and seeds, run cell by cell into one table.

Read `grid` first (the cells), then `runner` (the loop over them), `executors` (where they run), `comparison_folder`
(the files) and `comparison` (what a user gets).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
