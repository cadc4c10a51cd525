"""Derivatives of a network as modules with its parameters: ``Derivative`` of any transform, ``Equation`` a residual."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, Unpack, cast, overload

import torch
from torch import nn

from ..api.calling import Uncalled
from ..api.derivatives import Derivatives
from ..api.residual import R, Residual, residual
from ..core.levels import compiling
from ..core.reasons import a_type, name_of
from ..core.torch_private import NON_PERSISTENT
from ..errors import ArgumentTypeError, UnsupportedOperationError
from ..keywords import Keywords, NamedAlone, NamedPerhapsAux, NamedPerhapsValue
from ..modules.wrappers import warn_of_own_gradients
from .alike import settled
from .connected import connected, in_sight

SHARED = ("_parameters", "_buffers", "_modules", NON_PERSISTENT)
"""What a module holds its tensors and children in."""


@dataclass(frozen=True)
class Made:
    """How the derivative of a network is made."""

    transform: Callable[..., Any]
    args: tuple[Any, ...]
    keywords: Mapping[str, Any]

    def __call__(self, net: nn.Module) -> Callable[..., Any]:
        """That of this network."""
        derived = self.transform(net, *self.args, **self.keywords)
        if not callable(derived):
            raise ArgumentTypeError(
                f"transform is {name_of(self.transform)}, which made {a_type(derived)} of the network; pass "
                "one that returns a function, as laplacian does"
            )
        return derived  # type: ignore[no-any-return]


class Derivative(nn.Module):
    r"""A derivative of a network, as a module with the network's parameters under their own names.

    .. math:: \mathrm{Derivative}(\mathit{net}, T)(x) = T(\mathit{net})(x)

    What wraps a module, as ``DistributedDataParallel``, ``fully_shard``, ``torch.compile``, Lightning or ``accelerate``
    do, has to see the whole computation: gradients are reduced of what ran in the forward of the wrapper.  So wrap this
    module in place of the network.  Both hold the same parameters, buffers and children, so that state dicts of one fit
    the other, and training one trains the other.

    Every parameter that requires a gradient gets one, zero where the result does not depend on it, as on the last bias
    of a network.  So an optimiser with weight decay decays these as well.

    Args:
        net: a module.
        transform: what takes a function and returns its derivative, as :func:`laplacian` or ``lambda f:
            diag_jac(laplacian(f))``.
        *args: further arguments of ``transform``, as the names for :func:`partials`.
        **keywords: keywords of ``transform``.

    Returns:
        A module that takes what ``net`` takes and returns what ``transform(net)`` does, of the same shapes and dtypes;
        derivatives by name, as of :func:`partials`, in a dict, since wrappers look for tensors in no other class.

    Raises:
        ArgumentTypeError: ``net`` is no module, or ``transform`` makes no function of it.
        JacfuncError: as ``transform`` does, and what it returns.

    Example:
        >>> import torch
        >>> from jacfunc import laplacian
        >>> from jacfunc.nn import Derivative
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> module = Derivative(net, laplacian)
        >>> module(torch.rand(5, 2)).shape
        torch.Size([5, 1])
        >>> list(module.state_dict())
        ['0.weight', '0.bias', '2.weight', '2.bias']
    """

    _net: nn.Module
    _made: Made
    _derived: Callable[..., Any]
    _settled: bool

    def __init__(self, net: nn.Module, transform: Callable[..., Any], *args: Any, **keywords: Any) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise ArgumentTypeError(
                f"net is {a_type(net)}; pass the nn.Module whose derivative is wanted, whose parameters "
                f"{type(self).__name__} takes over"
            )
        if isinstance(transform, Uncalled):
            made_by = repr(transform).partition("(")[0]
            raise ArgumentTypeError(
                f"transform is {transform!r}, which was made of a function; pass {made_by} itself, not "
                f"{made_by}(net), and its other arguments after it"
            )
        if not callable(transform):
            raise ArgumentTypeError(f"transform is {a_type(transform)}; pass what takes a function, as laplacian does")
        made = Made(transform, args, keywords)
        # Past nn.Module, which would make a child of the network, and put its name before those of the parameters.
        vars(self).update({name: vars(net)[name] for name in SHARED})
        vars(self).update(_net=net, _made=made, _derived=made(net), _settled=False)

    @property
    def training(self) -> bool:
        """The mode of the network, which may be set there as well."""
        return self._net.training

    @training.setter
    def training(self, mode: bool) -> None:
        if "_net" in vars(self):  # nn.Module sets one before there is any
            self._net.training = mode

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The derivative at the arguments of the network."""
        if self._settled:
            # A known call is not looked at, and this one may go past the wrapper that earlier ones went through.
            if not compiling():
                warn_of_own_gradients(self.parameters)
            result = self._told(args, kwargs)
        else:
            result, vars(self)["_settled"] = settled(
                self, self._derived, (args, kwargs), lambda: self._told(args, kwargs)
            )
        return connected(result, list(self.parameters()))

    def _told(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return in_sight(self._derived(*args, **kwargs))

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the network, as of any module."""
        self._net.train(mode)
        return super().train(mode)

    def extra_repr(self) -> str:
        """What it is a derivative of."""
        return repr(self._derived)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_derived"} | {"_settled": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        # Of the copy of the network that came with the state.
        vars(self)["_derived"] = self._made(self._net)

    def _replicate_for_data_parallel(self) -> NoReturn:
        raise UnsupportedOperationError(
            f"nn.DataParallel copies the parameters of a module, which {type(self).__name__} shares with its network; "
            "use torch.nn.parallel.DistributedDataParallel, one process for each device"
        )


class Equation(Derivative, Generic[R]):
    r"""The residual of a differential equation as a module with the network's parameters under their own names.

    .. math:: r_n = F(t_n, x_n, u_n, \partial_t u_n, \partial_x^2 u_n, \dots), \qquad u = \mathit{net}(t, x)

    It is :func:`residual` for what wraps a module; :class:`Derivative` says more.

    Args:
        net: a module that takes the coordinates, as one tensor ``(N, d)`` or as d tensors ``(N,)`` or ``(N, 1)``.
        equation: a function of the derivatives by name, as in ``lambda d: d.u_t - d.u_xx``.
        inputs: a name for each coordinate, as in ``"t x"``.
        outputs: a name for each output, as in ``"u v p"``.
        grid: as for :func:`partials`.
        **keywords: those of :func:`residual`.

    Returns:
        A module that takes points as ``net`` does and returns what ``equation`` does, ``(N,)`` or a tuple of those.

    Raises:
        ArgumentTypeError: ``net`` is no module, or ``equation`` no function of the derivatives.
        JacfuncError: as :func:`residual`.

    Example:
        >>> import torch
        >>> from jacfunc.nn import Equation
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> equation = lambda d: d.u_t + d.u * d.u_x - 0.01 * d.u_xx
        >>> burgers = Equation(net, equation, inputs="t x", outputs="u")
        >>> burgers(torch.rand(5, 2)).square().mean().backward()
        >>> net[2].bias.grad is not None  # zero where an equation reads no u
        True
    """

    if TYPE_CHECKING:  # nn.Module has a call that returns anything

        def __call__(self, *args: Any, **kwargs: Any) -> R:
            """The residual at the points."""

    @overload
    def __init__(
        self, net: nn.Module, equation: Callable[[Derivatives], R], **keywords: Unpack[NamedAlone]
    ) -> None: ...
    @overload
    def __init__(
        self: Equation[Any],
        net: nn.Module,
        equation: Callable[[Derivatives], Any],
        **keywords: Unpack[NamedPerhapsValue],
    ) -> None: ...
    @overload
    def __init__(
        self: Equation[Any], net: nn.Module, equation: Callable[[Derivatives], Any], **keywords: Unpack[NamedPerhapsAux]
    ) -> None: ...
    def __init__(
        self,
        net: nn.Module,
        equation: Callable[[Derivatives], Any],
        *,
        inputs: str,
        outputs: str,
        grid: bool = False,
        **keywords: Unpack[Keywords],
    ) -> None:
        super().__init__(net, residual, equation, inputs=inputs, outputs=outputs, grid=grid, **keywords)

    def forward(self, *args: Any, **kwargs: Any) -> R:
        """The residual at the points."""
        if compiling() and not cast(Residual, self._derived).looked_at:
            return self._first(*args, **kwargs)  # type: ignore[no-any-return]
        return super().forward(*args, **kwargs)  # type: ignore[no-any-return]

    @torch.compiler.disable(reason="what an equation reads is found out at its first call")  # type: ignore[untyped-decorator,no-untyped-call]
    def _first(self, *args: Any, **kwargs: Any) -> R:
        return super().forward(*args, **kwargs)  # type: ignore[no-any-return]
