"""Generic file handling: atomic writes, YAML and strict JSON, nested state with tensors.

Independent of circuits and runs. Read `files` first.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
