"""The routes, one file each with the same three names: ``NAME``, ``first_order`` and ``second_order``.

A route evaluates the function of a request and fills entries (``entries.py``); it decides nothing.  A new one is
a new file and a line in ``ROUTES``.
"""

from __future__ import annotations

from types import ModuleType

from . import autograd, dual, forward, reverse, taylor

ROUTES: dict[str, ModuleType] = {route.NAME: route for route in (taylor, forward, reverse, dual, autograd)}
