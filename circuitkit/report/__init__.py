"""Results as text and tables. Only formats the output of runs and comparisons: nothing is measured here.

Read `summary` first: the text that printing a result shows.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
