"""Batched per-sample derivatives for PyTorch."""

from .errors import *
from .functional import make_functional
from .transforms import batch_jac, diag_jac, divergence, hess_diag, laplacian
