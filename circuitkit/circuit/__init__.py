"""Circuits: the graph of a transformer's edges, circuits (scored and kept edges), and circuit files.

Read `graph` first (writers, readers and edges as index arithmetic), then `circuit`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
