"""A transform inside a function that jets go through: called with jets, it gives jets.

Its own propagation carries the rows of both (``jet/joined.py``), and what it gives is again a jet of the surrounding
evaluation: the derivative, and how that moves with the outer input.  What cannot be followed so (another method, blocks
of samples, ``compile=True``) raises, and the surrounding transform takes another route.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..core import trees
from ..jet import Jet
from ..jet.dispatch import common_frame, constant, root
from ..jet.frame import AllRowsError, Frame
from .refusals import JetsGivenError
from .request import Request

Given = tuple[tuple[Any, ...], dict[str, Any]]


def followed(transform: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of a transform for arguments some of which are jets."""
    frame = _surrounding(args, kwargs)
    if not torch.is_grad_enabled():
        return constant(transform, args, kwargs)
    given = _mapped(_living, args, kwargs)
    request = Request(transform.transformed, transform.options, *values(args, kwargs), within=frame, given=given)
    return transform.outcome(request)[0]


def values(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
    """The arguments with values in place of jets."""
    return _mapped(_value, args, kwargs)


def _mapped(one: Callable[[Jet], Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Given:
    leaves, structure = trees.flatten((args, kwargs))
    if not any(type(leaf) is Jet for leaf in leaves):
        return args, kwargs
    own, named = structure.build([one(leaf) if type(leaf) is Jet else leaf for leaf in leaves])
    return own, named


def _value(jet: Jet) -> Any:
    return jet.value


def _living(jet: Jet) -> Any:
    return jet if jet.propagation.alive else jet.value.detach()


def _surrounding(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Frame:
    """The frame of the evaluation that runs around this call."""
    jets = [leaf for leaf in trees.flatten((args, kwargs))[0] if type(leaf) is Jet]
    if not any(jet.propagation.alive for jet in jets):
        raise JetsGivenError("a transform of what was kept from an evaluation that has ended")
    frame = root(common_frame(jets))
    if frame.metric is not None:
        raise AllRowsError("a transform after a first layer that is narrower than the input")
    return frame
