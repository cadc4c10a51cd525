"""``jacfunc/call/dynamo_guards.py``: how many guards there are of the torch that is installed, and which are kept."""

from __future__ import annotations

import re
import sys
import threading
from types import ModuleType

import pytest
import torch
from backends import compiling_by
from torch import nn
from torch.torch_version import TorchVersion

from jacfunc import diag_jac, make_functional
from jacfunc.call import compiled, dynamo_guards

VERSION = ".".join(torch.__version__.split(".")[:2])
KEPT = {
    "2.11": {"lambda": 16, "adapted": 39, "reverse": 17},
    "2.13": {"lambda": 17, "adapted": 38, "reverse": 17},
    "2.14": {"lambda": 17, "adapted": 38, "reverse": 17},
}
"""How many are kept of some 290 of a lambda, 420 of an adapted module, 290 to 370 in reverse, beside those of torch's
trees."""
USERS = (
    r"f|f\._fitting|f\.with_buffers|f\._layers\.modules\[.*\]|args(\[.*\])?|kwargs"  # the call's
    r"|f\.transformed|f\.of_plain_layers"  # whether they are there, before torch 2.13
    r"|type\((args\[.*\]|f|f\._layers\.modules.*)\)"
    r"|"  # the state of torch
    r"|G\['_\d+_c\d+'\]\.Tensor"  # of the globals of this file
)
PYTREE = r"__import__\('torch'\).*|list\(dict\.keys\(__import__\('torch'\).*|(type\()?G\['__import_torch_dot_(utils|compiler).*"
"""What torch's vjp asks of its own tree, which any program may add to: so many that it cannot be counted."""


@pytest.fixture
def guards(monkeypatch):
    """All guards of what is compiled, each with whether it is kept."""
    found, needed = [], dynamo_guards.needed

    def watched(adapted):
        kept = needed(adapted)

        def filtering(given):
            answers = kept(given)
            found.extend(zip(given, answers, strict=True))
            return answers

        return filtering

    monkeypatch.setattr(dynamo_guards, "needed", watched)
    with compiling_by("eager"):
        yield found


def call(kind):
    x = torch.randn(5, 3, dtype=torch.float64)
    if kind != "adapted":
        return diag_jac(lambda x: x.sin(), compile=True, method="reverse" if kind == "reverse" else "auto"), (x,)
    f, params = make_functional(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double())
    return diag_jac(f, compile=True), (params, x)


@pytest.mark.parametrize("kind", KEPT["2.13"])
def test_the_guards_are_counted(guards, kind):
    fast, args = call(kind)
    fast(*args)
    kept = [guard for guard, keep in guards if keep]
    users = f"{USERS}|{PYTREE}" if kind == "reverse" else USERS
    assert not [guard.name for guard in kept if not re.fullmatch(users, guard.name)]
    assert 250 < len(guards) < 600
    if TorchVersion(VERSION) > TorchVersion(max(KEPT)):  # of which nobody has counted them yet
        assert len(kept) < len(guards) / 2
    else:
        assert len([guard for guard in kept if not re.fullmatch(PYTREE, guard.name)]) == KEPT[VERSION][kind]


@pytest.mark.parametrize("kind", KEPT["2.13"])
def test_what_is_kept_looks_for_another_shape_and_dtype(guards, kind):
    fast, args = call(kind)
    fast(*args)
    before = len(guards)
    fast(*args)
    assert len(guards) == before
    others = (*args[:-1], torch.randn(7, 3, dtype=torch.float64))
    torch.testing.assert_close(fast(*others), torch.as_tensor(compiled._eager(fast)(*others)))
    assert len(guards) > before


def test_the_option_is_the_filter(guards):
    (option,) = dynamo_guards.filtered(True).items()
    assert option[0] == "guard_filter_fn"
    assert option[1]([]) == []


def test_modules_may_be_imported_meanwhile() -> None:
    """Another thread, such as the one that asks the compiler (``call/toolchain.py``), imports while guards are made."""
    names = [f"{__name__}_imported_{number}" for number in range(50)]
    over = threading.Event()

    def imports() -> None:
        while not over.is_set():
            for name in names:
                sys.modules[name] = ModuleType(name)
            for name in names:
                del sys.modules[name]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=imports)
    thread.start()
    try:
        found = [dynamo_guards._aliases() for _ in range(300)]
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert all("__import_jacfunc_dot_call" in aliases for aliases in found)
