"""Batched per-sample derivatives for PyTorch: the public names, nothing else."""

from typing import TYPE_CHECKING

from . import estimate
from .api.calculus import Directional, biharmonic, curl, directional
from .api.derivatives import Derivatives
from .api.hessian import hessian
from .api.independent import check_independent
from .api.laplacian import laplacian
from .api.named import Partials
from .api.operators import linear_operator
from .api.partials import partials
from .api.residual import Residual, residual
from .api.sparse import sparse_jac, sparsity
from .api.transform import Transform
from .api.transforms import batch_jac, diag_jac, divergence, hess_diag
from .core.caches import clear_caches
from .errors import (
    ArgumentError,
    ArgumentTypeError,
    CoupledSamplesError,
    DetachedParametersWarning,
    IndependenceWarning,
    JacfuncError,
    NotationError,
    ParametersError,
    PrecisionWarning,
    RuleError,
    ShapeError,
    UnreducedGradientsWarning,
    UnsupportedOperationError,
    ZeroDerivativeWarning,
)
from .explain import explain
from .jet import register_rule
from .modules.functional import FunctionalModule, make_functional
from .structure.jacobian import SparseJacobian
from .structure.pattern import SparsityPattern
from .training import accumulate

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "CoupledSamplesError",
    "Derivatives",
    "DetachedParametersWarning",
    "Directional",
    "FunctionalModule",
    "IndependenceWarning",
    "JacfuncError",
    "NotationError",
    "ParametersError",
    "Partials",
    "PrecisionWarning",
    "Residual",
    "RuleError",
    "ShapeError",
    "SparseJacobian",
    "SparsityPattern",
    "Transform",
    "UnreducedGradientsWarning",
    "UnsupportedOperationError",
    "ZeroDerivativeWarning",
    "accumulate",
    "batch_jac",
    "biharmonic",
    "check_independent",
    "clear_caches",
    "curl",
    "diag_jac",
    "directional",
    "divergence",
    "estimate",
    "explain",
    "hess_diag",
    "hessian",
    "laplacian",
    "linear_operator",
    "make_functional",
    "partials",
    "register_rule",
    "residual",
    "sparse_jac",
    "sparsity",
]

if not TYPE_CHECKING:  # for which every name would be there

    def __getattr__(name: str) -> object:
        from .elsewhere import no_attribute  # for errors alone

        raise no_attribute(name, __all__)
