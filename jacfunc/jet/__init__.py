"""Jets: numbers that carry their derivatives through a function, and how operations act on them."""

from __future__ import annotations

from . import dispatch, rules
from .build import bilinear, elementwise, linear
from .frame import CannotFollowError, Frame, Propagation
from .jet import Jet
from .registry import register_rule

dispatch.install()
rules.install()
dispatch.enter_others()

__all__ = ["CannotFollowError", "Frame", "Jet", "Propagation", "bilinear", "elementwise", "linear", "register_rule"]
