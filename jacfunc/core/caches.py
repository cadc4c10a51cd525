"""All that jacfunc remembers between calls, and the one lock: the only global state of the package.

``clear_caches`` empties it.  What is remembered is keyed by what a function *is* (see ``fingerprint.py``) and by the
signature of its arguments; entries vanish with the objects they speak of.  What it means lives elsewhere.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any, ParamSpec, TypeVar

import torch

LOCK = threading.RLock()
"""Held while a module's parameters are swapped, and during ``torch.func.jvp``.

``torch`` swaps attributes of a shared module in ``functional_call`` and keeps one global stack of forward-mode
levels, so neither survives a second thread without it.  One lock for both cannot deadlock.
"""

P = ParamSpec("P")
R = TypeVar("R")

MAX_FUNCTIONS = 256
MAX_SIGNATURES = 64


def _renew_lock() -> None:
    global LOCK
    LOCK = threading.RLock()
    AROUND_COUNT.lock = threading.Lock()
    PLAINLY_COUNT.lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # a data loader may fork while another thread holds the lock
    os.register_at_fork(after_in_child=_renew_lock)


class Memory:
    """A two-level, bounded memory: function key -> signature -> value, forgotten with the function's parts."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, tuple[list[weakref.ref[Any]], OrderedDict[Hashable, Any]]] = OrderedDict()

    def get(self, function: Hashable, signature: Hashable) -> Any:
        """The remembered value or None."""
        with LOCK:
            entry = self._entries.get(function)
            if entry is None:
                return None
            self._entries.move_to_end(function)
            return entry[1].get(signature)

    def peek(self, function: Hashable, signature: Hashable) -> Any:
        """The remembered value or None, without a lock: asked at every call, it does not count as a use."""
        entry = self._entries.get(function)
        return None if entry is None else entry[1].get(signature)

    def put(self, function: Hashable, parts: Iterable[object], signature: Hashable, value: Any) -> None:
        """Remember ``value`` for as long as every object in ``parts`` lives."""
        with LOCK:
            entry = self._entries.get(function)
            if entry is None:
                entry = ([weakref.ref(part, lambda _: self.forget(function)) for part in parts], OrderedDict())
                self._entries[function] = entry
            entry[1][signature] = value
            entry[1].move_to_end(signature)
            if len(entry[1]) > MAX_SIGNATURES:
                entry[1].popitem(last=False)
            if len(self._entries) > MAX_FUNCTIONS:
                self._entries.popitem(last=False)

    def forget(self, function: Hashable) -> None:
        """Drop all that is known of one function."""
        if LOCK is None:  # called back for a function that dies with the interpreter, whose globals are gone
            return
        with LOCK:
            self._entries.pop(function, None)

    def clear(self) -> None:
        """Drop everything."""
        with LOCK:
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


PLANS = Memory()
"""Which route worked, by transform, function and signature (``run.py``)."""

INDEPENDENT = Memory()
"""Functions and signatures whose samples were found independent (``independence.py``)."""

REFUSED = Memory()
"""Of each of them the programs that were refused, for they may pass by chance (``independence.py``)."""

FOLLOWED: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
"""How many calls were found to be of a known program that is not proved (``independence.py``)."""

SAMPLE_BYTES = Memory()
"""How large one sample is where a function is widest (``sample_chunks.py``)."""

OPAQUE = Memory()
"""How often a function was called that has something no program shows (``known.py``)."""

CUT = Memory()
"""How often a function was called in blocks of samples, or on a grid (``positions.py``)."""

COMPILED = Memory()
"""Transforms under ``torch.compile``, by function and signature (``compiled.py``)."""


class ByKind:
    """For each of some objects, which it does not keep alive, what is known of some kinds of calls (MAX_SIGNATURES).

    Reading takes no lock: it is asked at every call.  Who writes counts and drops what is oldest, one thread at a time.
    """

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()

    def get(self, owner: Any, kind: Hashable, default: Any = None) -> Any:
        """What is known of this kind, or the default."""
        return self._known.get(owner, _NOTHING).get(kind, default)

    def put(self, owner: Any, kind: Hashable, value: Any) -> None:
        """Know ``value`` of this kind, for as long as ``owner`` lives."""
        with LOCK:
            known = self._known.setdefault(owner, {})
            known[kind] = value
            if len(known) > MAX_SIGNATURES:
                del known[next(iter(known))]

    def clear(self) -> None:
        """Drop everything."""
        with LOCK:
            self._known.clear()

    def kinds(self, owner: Any) -> int:
        """How many kinds are known of an object."""
        return len(self._known.get(owner, _NOTHING))

    def __len__(self) -> int:
        return len(self._known)


_NOTHING: dict[Any, Any] = {}

FAST_COMPILED = ByKind()
"""Which of them a transform calls for which kind of arguments; weakly, for they refer to what it is of."""

PATTERNS = ByKind()
"""Of each sparse Jacobian, by kind of arguments, which entries it has and how they are computed (``api/sparse.py``)."""

FAST_CALLS = Memory()
"""Of each function, by transform and kind of arguments, what is not checked and planned anew (``fast_path.py``)."""


class Settled(threading.local):
    """Whether what this thread calls is compiled already, or not to be called (``compiled.py``)."""

    only = False


SETTLED = Settled()


class Around(threading.local):
    """What surrounds the evaluations of this thread, innermost last (``checkpoint.py``).

    ``told_off``: inside one, in a ``no_grad`` that switched forward mode off as well (``corrections/``).  ``unnoted``:
    how many of this package's own doings are under way, which are no steps of a program (``swapping.py``).
    ``watches``: who sees which modules run (``hidden.py``).  ``recorder``: who notes what runs (``program.py``).
    ``order``: how often what is evaluated is differentiated, ``by_tensors``: in how many
    evaluations around by no jets (``zero_norms.py``).
    """

    def __init__(self) -> None:
        self.rebindings: list[Any] = []
        self.told_off = False
        self.unnoted = 0
        self.watches: list[Any] = []
        self.recorder: Any = None
        self.order = self.by_tensors = 0


AROUND = Around()


def due(count: int) -> bool:
    """Whether this is one of the counts 1, 2, 4, 8 and so on, at which what may change is looked at again."""
    return count & (count - 1) == 0


class Count:
    """How many evaluations of all threads are under way; its lock is held for a moment only."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.number = 0

    def change(self, step: int, exchange: Callable[[bool], None]) -> None:
        """One begins (1) or ends (-1): ``exchange(True)`` with the first of them, ``exchange(False)`` with the last."""
        with self.lock:
            self.number += step
            if self.number == max(step, 0):
                exchange(step > 0)


AROUND_COUNT = Count()


class Plainly(threading.local):
    """How many evaluations of this thread run scripted code plainly, how often they called some (``scripted.py``)."""

    depth = 0
    called = 0


PLAINLY = Plainly()
PLAINLY_COUNT = Count()


class Unasked(threading.local):
    """How deep this thread is in evaluations that nobody asked for (``unasked.py``)."""

    depth = 0


UNASKED = Unasked()
UNASKED_COUNT = Count()


class Accumulating(threading.local):
    """Whether what is around adds up gradients and tells errors over all processes itself (``accumulate.py``).

    ``warned``: whether it differentiates at this rank's part of DTensors, and warns by itself (``meshed.py``).
    """

    now = warned = False


ACCUMULATING = Accumulating()

PLAIN_COPIES: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
"""The copy of scripted code that evaluations run."""

CHECKS = itertools.count()
"""Counts the checks of independence, so that each of them cuts the samples differently."""

CODES = Memory()
"""The code by which torch.compile knows a transform (``entrance.py``)."""

TRACED = itertools.count()
"""Counts what was given to torch.compile, so that each has a name of its own."""


class Toolchain:
    """Whether the compiler of torch.compile's kernels was asked what it can do, and who asks (``toolchain.py``)."""

    asked = False
    thread: threading.Thread | None = None


TOOLCHAIN = Toolchain()


class Warned:
    """Of what this process was warned, which it is once (``modules/wrappers.py``), and for what (``meshed.py``)."""

    gradients, meshed = False, Memory()

    def clear(self) -> None:
        """Nothing yet."""
        self.gradients, self.meshed = False, Memory()


WARNED = Warned()
RULES: dict[Any, tuple[Any, bool]] = {}
"""The rule of each operation of the Taylor route, and whether it keeps a frame (``jet/registry.py``)."""
ROOTED: dict[Any, Any] = {}
BLOCKWISE: dict[Any, Any] = {}
"""What some do where a norm is zero, and with rows of blocks (``jet/rules/roots.py``, ``jet/rules/blockwise.py``)."""
CHOSEN: dict[Any, Any] = {}
"""What some do where a few entries move alone (``jet/rules/chosen.py``)."""
USER_RULES: dict[Any, Any] = {}
"""Those of it that users have entered, as they are (``jet/registry.py``)."""
RULES_ENTERED = Count()
"""How often that table was added to, by which what was compiled by it is known to be of old."""

BATCHED: dict[Any, bool] = {}
"""Whether the derivative of an operation without a rule works under ``vmap`` (``jet/fallback.py``)."""

IDENTITIES: dict[Any, Any] = {}
"""One-hot rows by size, dtype and device (``jet/frame.py``), up to the largest size that is kept."""
LARGEST_IDENTITY = 64

INVENTORIES = Memory()
"""Where a module that a function closes over keeps its tensors (``swapping.py``)."""

HIDDEN = Memory()
"""Of each function the modules that ran in it and that no walk through it finds, weakly (``hidden.py``)."""

DRAWS: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
"""Whether code of a module of the user's may draw random numbers (``fingerprint.py``)."""

OWN_HOOKS: set[int] = set()
"""The numbers of the hooks for all modules that this package has registered (``hidden.py``)."""

_MEMORIES = (
    PLANS,
    INDEPENDENT,
    REFUSED,
    FOLLOWED,
    SAMPLE_BYTES,
    OPAQUE,
    CUT,
    COMPILED,
    FAST_COMPILED,
    FAST_CALLS,
    PATTERNS,
    PLAIN_COPIES,
    CODES,
    BATCHED,
    IDENTITIES,
    INVENTORIES,
    HIDDEN,
    DRAWS,
    WARNED,
)


def forget_plans(function: Hashable) -> None:
    """Drop the plans of one function, so that its next call is planned and verified anew."""
    for memory in (PLANS, FAST_CALLS):
        memory.forget(function)


def distrust(function: Hashable) -> None:
    """Drop what was found of one function, so that its next call is looked at as a first one."""
    forget_plans(function)
    for memory in (INDEPENDENT, COMPILED):
        memory.forget(function)
    FAST_COMPILED.clear()  # which is by transform


_COMPUTED_ONCE: list[Callable[[], None]] = []


def computed_once(maxsize: int, traced: bool = True) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """``functools.lru_cache``, emptied with everything else; ``traced``: Dynamo may come across it."""

    def kept(function: Callable[P, R]) -> Callable[P, R]:
        cached = functools.lru_cache(maxsize)(function)
        _COMPUTED_ONCE.append(cached.cache_clear)

        @functools.wraps(function)
        def known(*args: P.args, **kwargs: P.kwargs) -> R:
            if torch.compiler.is_dynamo_compiling():  # it looks past a cache, with a warning
                return function(*args, **kwargs)
            return cached(*args, **kwargs)  # type: ignore[arg-type]  # which asks for hashable arguments as well

        return known if traced else cached  # type: ignore[return-value]

    return kept


def clear_caches() -> None:
    """Forget everything that was found out in earlier calls: plans, independence, what was compiled, sizes.

    The next call of each transform looks at its function anew, as a process does that has just begun.  Rules that were
    entered by :func:`jacfunc.register_rule` stay.  What ``torch.compile`` keeps is emptied by
    ``torch.compiler.reset()``.

    Example:
        >>> import torch
        >>> from jacfunc import clear_caches, diag_jac
        >>> diag_jac(torch.sin)(torch.zeros(2, 1))
        tensor([[1.],
                [1.]])
        >>> clear_caches()
    """
    with LOCK:
        for memory in _MEMORIES:
            memory.clear()
        for empty in _COMPUTED_ONCE:
            empty()
