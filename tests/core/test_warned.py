"""``jacfunc/core/warned.py``: a warning points to the user's line, past this package and torch."""

from __future__ import annotations

import threading
import types
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from jacfunc.core.warned import warn

Call = Callable[[], None]
USERS = "/home/user/train.py"


def inside(name: str, call: Call, file: str = "/elsewhere/called.py") -> Call:
    """A function of a module of this name that calls another one."""
    namespace: dict[str, Call] = {"call": call, "__name__": name}  # type: ignore[dict-item]
    exec(compile("def run(): call()", file, "exec"), namespace)
    return namespace["run"]


def of_this_package() -> Call:
    """What warns, as a function of this package."""
    return types.FunctionType(_warns.__code__, {"warn": warn, "UserWarning": UserWarning, "__name__": "jacfunc.here"})


def _warns() -> None:
    warn("told", UserWarning)


def place(call: Call) -> str:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call()
    (told,) = seen
    return told.filename


@pytest.mark.parametrize("name", ["jacfunc", "jacfunc.nn.modules", "torch.nn.modules.module", "contextlib"])
def test_frames_that_are_passed_over(name: str) -> None:
    assert place(inside(name, of_this_package())) == __file__
    assert place(inside("__main__", inside(name, of_this_package()), USERS)) == USERS


def test_the_line_of_the_users_that_is_nearest() -> None:
    assert place(inside("torch.nn", inside("model", of_this_package(), USERS))) == USERS
    assert place(inside("torch_geometric.nn", of_this_package(), USERS)) == USERS
    assert place(inside("", of_this_package(), USERS)) == USERS  # of code that has no module
    assert place(inside("", of_this_package(), "<eval_with_key>.7")) == __file__


def test_a_module_that_torch_calls() -> None:
    class Warning_(nn.Module):
        def forward(self) -> None:
            of_this_package()()

    class Inner(nn.Module):
        forward = staticmethod(of_this_package())

    assert place(Warning_()) == __file__
    assert place(Inner()) == __file__
    assert place(torch.no_grad()(Inner())) == __file__


def test_a_thread_without_a_line_of_the_users() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        thread = threading.Thread(target=of_this_package())
        thread.start()
        thread.join()
    (told,) = seen
    assert told.filename == threading.__file__
