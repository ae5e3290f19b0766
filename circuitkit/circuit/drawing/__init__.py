"""Pictures of circuits: static ones for papers, graphs for Graphviz, and an interactive viewer for web pages.

Read `layout` first (where nodes and edges are), then `picture` and `viewer`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
