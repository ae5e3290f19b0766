"""Contracts: what every strategy, policy, task, objective, ablation and family must do, as checks of one class.

`circuitkit check my_package.MyStrategy` runs them on a class of one's own, and the tests of this package on all that
are registered. Read `outcome` first, then `strategies`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
