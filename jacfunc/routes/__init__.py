"""The routes, one file each with the same names: ``NAME``, ``first_order``, ``second_order`` and ``partials``.

A route evaluates the function of a request and fills entries (``collect.py``); it decides nothing.  A new one is
a new file and a line in ``ROUTES``.  What the routes but Taylor's nest for ``partials`` is in ``nested.py``.
"""

from __future__ import annotations

from types import ModuleType

from . import autograd, dual, forward, reverse, taylor

ROUTES: dict[str, ModuleType] = {route.NAME: route for route in (taylor, forward, reverse, dual, autograd)}
