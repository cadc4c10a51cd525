"""The routes, one file each; ``route.py`` has their contract, and a new one is a new file and a line in ``ROUTES``.

A route evaluates the function of a request and fills entries (``collect.py``); it decides nothing.  What the routes but
Taylor's nest for mixed derivatives is in ``nested.py``.
"""

from __future__ import annotations

from .autograd import Autograd
from .dual import Dual
from .forward import Forward
from .reverse import Reverse
from .route import Route
from .taylor import Taylor

ROUTES: dict[str, Route] = {route.name: route for route in (Taylor(), Forward(), Reverse(), Autograd(), Dual())}
"""By name; last resorts are tried in this order."""
