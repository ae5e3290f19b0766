"""How a configuration names an object: registered names, specs, and parse errors as one-line messages.

Read `registry` first (entry points), then `specs` (objects from names, class paths and mappings).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
