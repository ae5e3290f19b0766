"""Discovery methods, one file per method.

Read `base` first: `DiscoveryStrategy` has one abstract method. `discovery` is everything that a run gives it. Then
read `eap`, the shortest method.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
