"""Derivatives as modules, for whatever wraps a module: DDP, FSDP2, ``torch.compile``, Lightning."""

from .modules import Derivative, Equation

__all__ = ["Derivative", "Equation"]
