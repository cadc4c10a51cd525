"""Recurrent networks, unrolled in jets; torch's kernel gives the value where it draws nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F

from ...core.levels import grad_mode
from ..jet import Jet
from ..registry import add
from ..values import plain
from .shared import exact_value

State = tuple[Any, ...]
"""The hidden state, and of an LSTM the cell state."""
Step = Callable[[Any, State, Sequence[Any]], State]
"""From what a layer makes of the input of one time, the state before and the weights, to the state after."""


# -------------------------------------------------------------------- one step


def _hidden(state: State, weights: Sequence[Any]) -> Any:
    return F.linear(state[0], weights[1], weights[3] if len(weights) > 3 else None)


def _plain_step(activation: Callable[[Any], Any]) -> Step:
    def step(gates: Any, state: State, weights: Sequence[Any]) -> State:
        return (activation(gates + _hidden(state, weights)),)

    return step


def _gru_step(gates: Any, state: State, weights: Sequence[Any]) -> State:
    """``h' = n + z (h - n)`` with ``n = tanh(W x + r (U h))``."""
    reset, update, new = gates.chunk(3, -1)
    hidden_reset, hidden_update, hidden_new = _hidden(state, weights).chunk(3, -1)
    reset, update = (reset + hidden_reset).sigmoid(), (update + hidden_update).sigmoid()
    new = (new + reset * hidden_new).tanh()
    return (new + update * (state[0] - new),)


def _lstm_step(gates: Any, state: State, weights: Sequence[Any]) -> State:
    """With a projection of the hidden state where there is a weight for it."""
    enter, forget, new, leave = (gates + _hidden(state, weights)).chunk(4, -1)
    cell = forget.sigmoid() * state[1] + enter.sigmoid() * new.tanh()
    hidden = leave.sigmoid() * cell.tanh()
    projection = weights[-1] if len(weights) in (3, 5) else None
    return (hidden if projection is None else F.linear(hidden, projection)), cell


# -------------------------------------------------------------------- all steps and layers


@dataclass(frozen=True)
class _Network:
    """What torch's functions take besides tensors; ``sizes`` is the number of samples at each time, if packed."""

    biases: bool
    layers: int
    dropout: float
    train: bool
    bidirectional: bool
    batch_first: bool = False
    sizes: tuple[int, ...] = ()

    def draws(self) -> bool:
        """Whether there is dropout between layers."""
        return bool(self.train and self.dropout and self.layers > 1)


def _run(step: Step, input: Any, states: State, params: Sequence[Any], network: _Network) -> tuple[Any, ...]:
    """The outputs of all times, time first, and the last state of each layer and direction."""
    ways = 2 if network.bidirectional else 1
    size = len(params) // (network.layers * ways)
    last: list[State] = []
    for layer in range(network.layers):
        sequences = []
        for way, place in enumerate(range(layer * ways, (layer + 1) * ways)):
            weights = params[place * size : (place + 1) * size]
            gates: Any = F.linear(input, weights[0], weights[2] if network.biases else None)  # of all times at once
            follow = _backwards if way else _forwards
            times = gates.split(network.sizes) if network.sizes else gates.unbind()
            outputs, state = follow(step, times, tuple(s[place] for s in states), weights)
            sequences.append(torch.cat(outputs) if network.sizes else torch.stack(outputs))
            last.append(state)
        input = sequences[0] if ways == 1 else torch.cat(sequences, -1)
        if network.draws() and layer < network.layers - 1:
            input = F.dropout(input, network.dropout)
    return input, *(torch.stack(column) for column in zip(*last, strict=True))


def _forwards(step: Step, times: Sequence[Any], state: State, weights: Sequence[Any]) -> tuple[list[Any], State]:
    """From the first time on; samples that end are set aside."""
    outputs, ended = [], []
    for gates in times:
        if gates.shape[0] < state[0].shape[0]:
            ended.append(tuple(s[gates.shape[0] :] for s in state))
            state = tuple(s[: gates.shape[0]] for s in state)
        state = step(gates, state, weights)
        outputs.append(state[0])
    if ended:
        state = tuple(torch.cat(parts) for parts in zip(state, *reversed(ended), strict=True))
    return outputs, state


def _backwards(step: Step, times: Sequence[Any], first: State, weights: Sequence[Any]) -> tuple[list[Any], State]:
    """From the last time on; samples join in at their end."""
    outputs: list[Any] = []
    state = first
    for gates in reversed(times):
        count = outputs[-1].shape[0] if outputs else 0
        if gates.shape[0] > count:
            joining = tuple(s[count : gates.shape[0]] for s in first)
            state = joining if not outputs else tuple(map(torch.cat, zip(state, joining, strict=True)))
        state = step(gates, state, weights)
        outputs.append(state[0])
    return outputs[::-1], state


# -------------------------------------------------------------------- torch's functions


def _network(native: Callable[..., Any], step: Step) -> Callable[..., Any]:
    """The rule of ``torch.lstm`` and its kin, padded or packed: outputs, then the last states."""

    def rule(*args: Any, **named: Any) -> Any:
        packed = isinstance(args[3], list | tuple)
        sizes = tuple(args[1].tolist()) if packed else ()
        input, hx, params, *options = (args[0], *args[2:]) if packed else args
        network = replace(_Network(*options, **named), sizes=sizes)
        states = tuple(hx) if isinstance(hx, list | tuple) else (hx,)
        sequence = input.transpose(0, 1) if network.batch_first else input
        outputs, *last = _run(step, sequence, states, params, network)
        results = (outputs.transpose(0, 1) if network.batch_first else outputs, *last)
        return results if network.draws() else _with_values(native, results, args, named)

    return rule


def _with_values(native: Callable[..., Any], results: tuple[Any, ...], args: Any, named: Any) -> tuple[Any, ...]:
    with grad_mode(False):
        found = native(*plain(args), **plain(named))
    values = found if isinstance(found, tuple) else (found,)
    pairs = zip(results, values, strict=True)
    return tuple(exact_value(value, result) if type(result) is Jet else result for result, value in pairs)


def _cell(native: Callable[..., Any], step: Step) -> Callable[..., Any]:
    """The rule of one step, with the weights one by one."""

    def rule(input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Any:
        weights = (w_ih, w_hh) if b_hh is None else (w_ih, w_hh, b_ih, b_hh)
        states = tuple(hx) if isinstance(hx, list | tuple) else (hx,)
        results = step(F.linear(input, w_ih, b_ih), states, weights)
        results = _with_values(native, results, (input, hx, w_ih, w_hh, b_ih, b_hh), {})
        return results if isinstance(hx, list | tuple) else results[0]

    return rule


STEPS: dict[str, Step] = {
    "lstm": _lstm_step,
    "gru": _gru_step,
    "rnn_tanh": _plain_step(torch.tanh),
    "rnn_relu": _plain_step(torch.relu),
}


def install() -> None:
    """Enter the rules of this file."""
    for name, step in STEPS.items():
        for kind, rule in ((name, _network), (f"{name}_cell", _cell)):
            native = getattr(torch, kind)
            add(rule(native, step), native)
