"""``jacfunc/core/unasked.py``: of evaluations that nobody asked for no warning is shown or raised."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable

import pytest
import torch

from jacfunc import CoupledSamplesError, check_independent, diag_jac, explain, hessian, laplacian, residual
from jacfunc.core.unasked import unasked


class OutsideWarning(RuntimeWarning):
    """Of numbers that the user did not give."""


def warn() -> None:
    warnings.warn("outside", OutsideWarning, stacklevel=2)


def test_nothing_is_shown_or_raised_and_all_is_as_before() -> None:
    before = list(warnings.filters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with unasked():
            warn()
            with unasked():
                warn()
            warn()
        with pytest.raises(OutsideWarning):
            warn()
        with pytest.raises(ValueError, match="of its own"), unasked():
            raise ValueError("of its own")
        with pytest.raises(OutsideWarning):
            warn()
    assert warnings.filters == before


def test_what_a_function_does_with_warnings_itself_holds() -> None:
    with unasked(), warnings.catch_warnings():
        warnings.simplefilter("error", OutsideWarning)
        with pytest.raises(OutsideWarning):
            warn()
    with unasked(), pytest.warns(OutsideWarning):
        warn()


def test_what_was_shown_once_is_not_shown_again() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for _ in range(3):
            warn()
            with unasked():
                warn()
    assert len(shown) == 1


def test_other_threads_are_warned() -> None:
    inside, over, raised = threading.Event(), threading.Event(), []

    def other() -> None:
        with unasked():
            inside.set()
            over.wait(10)
            warn()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        thread = threading.Thread(target=other)
        thread.start()
        inside.wait(10)
        try:
            warn()
        except OutsideWarning:
            raised.append(True)
        with unasked():
            warn()
        warnings.simplefilter("error")  # in front of the filter
        with unasked():
            warn()
        over.set()
        thread.join()
    assert raised


# -------------------------------------------------------------------- where f is evaluated at other points


def within(x: torch.Tensor) -> torch.Tensor:
    """Itself, with a warning for what is outside of the points of these tests."""
    if bool(((x < 0.25) | (x > 0.75)).any()):
        warn()
    return x


def points(count: int = 12) -> torch.Tensor:
    return 0.3 + 0.4 * torch.rand(count, 3, dtype=torch.float64)


class Cubed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return 3 * within(x) ** 2 * cotangent


def parted(x: torch.Tensor) -> torch.Tensor:
    return x.sin() if isinstance(within(x), torch.Tensor) else x.cos()


FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "ordinary": lambda x: within(x).sin(),
    "proved by numbers": lambda x: within(x).flip(0).sin().flip(0),
    "linear": lambda x: within(x) * 2,
    "zero": lambda x: within(x) * 0.0,
    "of numpy": lambda x: within(x) * torch.from_numpy(within(x).detach().numpy() * 0 + 1),
    "kinds of tensors": parted,
    "a Function": lambda x: Cubed.apply(within(x)),
    "a branch with NaN": lambda x: torch.where(within(x) > 0.2, x, (x - x.detach()).sqrt()),
    "little rounding": lambda x: (within(x) - x.mean(0) + x.mean(0)).sin(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("method", ["auto", "forward", "reverse", "taylor"])
def test_functions_do_not_warn_of_points_of_ours(name: str, method: str) -> None:
    for transform in (diag_jac, hessian):
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("error", OutsideWarning)
            derivative = transform(FUNCTIONS[name], method=method)
            try:
                for _ in range(4):
                    derivative(points())
            except OutsideWarning:
                raise
            except Exception as error:
                assert "OutsideWarning" not in str(error)
        assert not [each for each in shown if each.category is OutsideWarning]


@pytest.mark.parametrize(
    "call",
    [
        lambda f: laplacian(f, sample_chunk_size=4)(points()),
        lambda f: laplacian(f, sample_chunk_size="auto")(points()),
        lambda f: explain(laplacian(f))(points()),
        lambda f: check_independent(f)(points()),
        lambda f: residual(f, lambda d: within(d.u_xx * 0 + 0.5) + d.u, inputs="x y z", outputs="u")(points()),
    ],
)
def test_neither_do_other_calls(call) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", OutsideWarning)
        call(lambda x: within(x).sin().sum(1))


def test_a_coupling_is_refused_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", OutsideWarning)
        with pytest.raises(CoupledSamplesError):
            diag_jac(lambda x: within(x) - x.mean(0))(points())


def test_of_points_of_the_users_functions_warn() -> None:
    f = lambda x: within(x).sin()
    with pytest.warns(OutsideWarning):
        diag_jac(f)(points() + 5)
    with pytest.warns(OutsideWarning):
        diag_jac(f)(points() + 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", OutsideWarning)
        for transform in (diag_jac(f), diag_jac(lambda x: within(x).cos()), laplacian(f, sample_chunk_size=4)):
            with pytest.raises(OutsideWarning):
                transform(points() + 5)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for _ in range(3):
            diag_jac(lambda x: within(x).tan())(points() + 5)
    assert len([each for each in shown if each.category is OutsideWarning]) == 1


@pytest.mark.parametrize("transform", [diag_jac, laplacian])
def test_they_warn_at_the_look_and_in_the_route_and_no_more(transform) -> None:
    derivative = transform(lambda x: within(x).sin())
    for count in (2, 1, 1):
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            derivative(points() + 5)
        assert len(shown) == count
