"""``jacfunc/errors.py``: what a user may catch them by."""

from __future__ import annotations

import inspect
import pickle

import pytest

import jacfunc
from jacfunc import errors

CLASSES = {
    name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and kind.__module__ == errors.__name__
}
BUILTIN = {
    "JacfuncError": Exception,
    "ArgumentError": ValueError,
    "ArgumentTypeError": TypeError,
    "NotationError": ValueError,
    "ShapeError": ValueError,
    "ParametersError": ValueError,
    "CoupledSamplesError": ValueError,
    "UnsupportedOperationError": NotImplementedError,
    "RefusedOperationError": NotImplementedError,
    "RuleError": TypeError,
    "IndependenceWarning": UserWarning,
    "PrecisionWarning": UserWarning,
    "UnreducedGradientsWarning": UserWarning,
    "DetachedParametersWarning": UserWarning,
    "ZeroDerivativeWarning": UserWarning,
}


def test_every_class_is_known_here() -> None:
    assert set(CLASSES) == set(BUILTIN)


@pytest.mark.parametrize("name", BUILTIN)
def test_each_is_caught_by_the_builtin_class_of_its_kind(name: str) -> None:
    assert issubclass(CLASSES[name], BUILTIN[name])


@pytest.mark.parametrize("name", BUILTIN)
def test_errors_are_caught_together_and_warnings_are_none_of_them(name: str) -> None:
    assert issubclass(CLASSES[name], errors.JacfuncError) is not issubclass(CLASSES[name], Warning)


def test_one_is_a_special_case_of_another() -> None:
    above = {
        (name, other)
        for name, kind in CLASSES.items()
        for other in CLASSES
        if other not in (name, "JacfuncError") and issubclass(kind, CLASSES[other])
    }
    assert above == {("NotationError", "ArgumentError"), ("RefusedOperationError", "UnsupportedOperationError")}


@pytest.mark.parametrize("name", BUILTIN)
def test_each_is_public_under_its_name_unless_another_public_one_stands_for_it(name: str) -> None:
    if name == "RefusedOperationError":
        assert not hasattr(jacfunc, name)
    else:
        assert getattr(jacfunc, name) is CLASSES[name] and name in jacfunc.__all__


@pytest.mark.parametrize("name", BUILTIN)
def test_each_has_a_sentence_and_reaches_another_process(name: str) -> None:
    assert CLASSES[name].__doc__
    error = pickle.loads(pickle.dumps(CLASSES[name]("args[0] is wrong")))
    assert type(error) is CLASSES[name] and str(error) == "args[0] is wrong"
