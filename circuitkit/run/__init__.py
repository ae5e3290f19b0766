"""One discovery run: its configuration, callbacks, measurements, result and folder.

Read `discoverer` first: it takes a run from its configuration to its folder, step by step.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
