"""Unchanged transformers models, seen as attention heads and MLPs that read and write the residual stream.

Read `circuit_model` first, then `attention`; `families` says where the parts of an architecture are. Every
model is checked when it is loaded (`parity`). All weights are reached through `weights`, so that a precision policy can
replace them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
