"""What the elements of an operation's results depend on, by families; loading them enters them in the table."""

from ..tracker import RULES
from . import contracting, elementwise, indexing, made, moving, reducing, windows

__all__ = ["RULES", "contracting", "elementwise", "indexing", "made", "moving", "reducing", "windows"]
