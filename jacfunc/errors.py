"""Every exception and warning class of jacfunc; what the messages say is written where they are raised.

Each error is raised before any heavy work and in one sentence names the argument, what was found, what was
expected and the way out.  All of them derive from :class:`JacfuncError`.
"""

from __future__ import annotations


class JacfuncError(Exception):
    """Base class of everything that jacfunc raises on purpose."""


class ArgumentError(JacfuncError, ValueError):
    """An option or argument has a value that cannot be meant (``argnums``, ``chunk_size``, ``method``, ...)."""


class ArgumentTypeError(JacfuncError, TypeError):
    """An argument or a leaf of one has the wrong type (no tensor, an integer tensor, not callable, ...)."""


class NotationError(ArgumentError):
    """Names of partial derivatives that cannot be read, or that can be read in several ways."""


class ShapeError(JacfuncError, ValueError):
    """Shapes that do not fit: no common batch, or no diagonal between input and output."""


class ParametersError(JacfuncError, ValueError):
    """The parameters or buffers given to an adapted module are missing, unknown or mis-shaped."""


class CoupledSamplesError(JacfuncError, ValueError):
    """A sample of the output depends on other samples of the input, so per-sample derivatives do not exist."""


class UnsupportedOperationError(JacfuncError, NotImplementedError):
    """No route can differentiate an operation inside the function, or no derivative of it would be right."""


class RefusedOperationError(UnsupportedOperationError):
    """No derivative of an operation is right, so no route is tried."""


class RuleError(JacfuncError, TypeError):
    """A rule of the Taylor route gave rows that do not belong to its value."""


class IndependenceWarning(UserWarning):
    """The independence of the samples could not be tested."""


class UnreducedGradientsWarning(UserWarning):
    """Parameters are differentiated on one of several ranks where nobody adds up their gradients."""


class DetachedParametersWarning(UserWarning):
    """Parameters were given without their gradients, so ``.backward()`` cannot reach the network."""


class ZeroDerivativeWarning(UserWarning):
    """Derivatives are zero everywhere: second ones of a ReLU network, or all of what is detached from its input."""


class PrecisionWarning(UserWarning):
    """Derivatives of an order that the dtype can hardly carry."""
