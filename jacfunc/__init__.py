"""Batched per-sample derivatives for PyTorch: the public names, nothing else."""

from .errors import (
    ArgumentError,
    ArgumentTypeError,
    CoupledSamplesError,
    IndependenceWarning,
    JacfuncError,
    ParametersError,
    RuleError,
    ShapeError,
    UnsupportedOperationError,
)
from .explain import explain
from .functional import FunctionalModule, make_functional
from .jet import register_rule
from .transforms import Transform, batch_jac, check_independent, diag_jac, divergence, hess_diag, laplacian

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "CoupledSamplesError",
    "FunctionalModule",
    "IndependenceWarning",
    "JacfuncError",
    "ParametersError",
    "RuleError",
    "ShapeError",
    "Transform",
    "UnsupportedOperationError",
    "batch_jac",
    "check_independent",
    "diag_jac",
    "divergence",
    "explain",
    "hess_diag",
    "laplacian",
    "make_functional",
    "register_rule",
]
