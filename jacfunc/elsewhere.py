"""What a name of another library, or a misspelt one, is called here, for the error about an unknown attribute.

The names are those of ``torch.func``, ``torch.autograd.functional``, JAX and of mathematics.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .options import closest

HERE = {
    "jacobian": "batch_jac",
    "jac": "batch_jac",
    "jacfwd": "batch_jac",
    "jacrev": "batch_jac",
    "grad": "diag_jac",
    "gradient": "diag_jac",
    "derivative": "diag_jac",
    "jvp": "directional",
    "hess": "hessian",
    "div": "divergence",
    "rot": "curl",
    "laplace": "laplacian",
    "functional_call": "make_functional",
    "functionalize": "make_functional",
    "equation": "nn.Equation",
}
"""What gives the same derivative, of each sample of a batch."""
BESIDE = ("nn",)
"""Packages inside of this one that are imported by themselves."""


def no_attribute(name: str, public: Sequence[str]) -> AttributeError | ImportError:
    """The error about an attribute that the package does not have."""
    told = f"module 'jacfunc' has no attribute {name!r}"
    if name.startswith("_"):
        return AttributeError(told, name=name)
    if name in BESIDE:
        return AttributeError(f"{told} before it is imported; write import jacfunc.{name}", name=name)
    meant = HERE.get(name.lower()) or closest(name, public)
    if not meant:
        return AttributeError(told, name=name)
    if name.lower() in HERE and _imported():
        return ImportError(f"cannot import name {name!r} from 'jacfunc'; did you mean {meant}?", name=name)
    return AttributeError(f"{told}; did you mean jacfunc.{meant}?", name=name)


def _imported() -> bool:
    """Whether a statement ``from jacfunc import ..`` asks, which says an AttributeError in its own words."""
    asking = sys._getframe(3)  # of who asks the package, which asks no_attribute
    return asking.f_globals.get("__name__") == "importlib._bootstrap"
