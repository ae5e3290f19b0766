"""The page of a comparison or of a run: one HTML file that needs no network, with Markdown and pictures beside it.

Read `content` first (what is read from the folder), then `leaderboard` (which method is best, as far as intervals
allow), and `page` (the files).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
