"""**Estimates of derivatives by random probes**, for inputs of very many dimensions: the public names."""

from .directional import directional
from .probes import draw
from .result import Estimate
from .transforms import diag_jac, divergence, hess_diag, laplacian

__all__ = ["Estimate", "diag_jac", "directional", "divergence", "draw", "hess_diag", "laplacian"]
