"""Recurrent networks on jets, against nested reverse mode."""

from __future__ import annotations

import pytest
import torch
from jet_truth import check, check_parameters
from propagated import propagated
from torch import nn
from torch.nn.utils.rnn import PackedSequence


def _network(kind, **options):
    torch.manual_seed(0)
    return kind(2, 3, **options).double()


def _input(*shape):
    return torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def _whole(network):
    """Outputs and last states, samples first."""

    def f(x, *hx):
        outputs, last = network(x, *hx)
        return torch.cat([outputs.flatten(1), *(h.transpose(0, 1).flatten(1) for h in last)], 1)

    return f if isinstance(network, nn.LSTM) else lambda x, *hx: _plain(network, x, *hx)


def _plain(network, x, *hx):
    outputs, last = network(x, *hx)
    return torch.cat([outputs.flatten(1), last.transpose(0, 1).flatten(1)], 1)


CASES = {
    "lstm": lambda: _network(nn.LSTM, batch_first=True),
    "lstm-no-bias": lambda: _network(nn.LSTM, batch_first=True, bias=False),
    "lstm-projected": lambda: _network(nn.LSTM, batch_first=True, proj_size=2, num_layers=2),
    "lstm-projected-no-bias": lambda: _network(nn.LSTM, batch_first=True, proj_size=2, bias=False),
    "lstm-deep": lambda: _network(nn.LSTM, batch_first=True, num_layers=2, bidirectional=True),
    "gru": lambda: _network(nn.GRU, batch_first=True),
    "gru-deep": lambda: _network(nn.GRU, batch_first=True, num_layers=2, bidirectional=True, bias=False),
    "rnn-tanh": lambda: _network(nn.RNN, batch_first=True, bidirectional=True),
    "rnn-relu": lambda: _network(nn.RNN, batch_first=True, nonlinearity="relu", num_layers=2),
}


def _checked(f, x):
    """The value exactly, and rows of three sums of all that comes out, as the truth takes one output after the other."""
    value, _ = propagated(f, x)
    assert torch.equal(value, f(x))
    weights = torch.randn(f(x).shape[-1], 3, dtype=x.dtype, generator=torch.Generator().manual_seed(3))
    check(lambda x: f(x) @ weights, x, exact=False)


@pytest.mark.parametrize("name", CASES)
def test_rows(name):
    network = CASES[name]()
    _checked(_whole(network), _input(2, 3, 2))


@pytest.mark.parametrize("name", CASES)
def test_parameters(name):
    network = CASES[name]()
    check_parameters(lambda x: _whole(network)(x)[:, -4:], _input(2, 2, 2), list(network.parameters()))


def test_time_first_and_initial_states():
    network = _network(nn.LSTM)
    check(lambda x: network(x.transpose(0, 1))[0].transpose(0, 1), _input(2, 3, 2))
    hidden, cell, constant = _input(1, 2, 3), _input(1, 2, 3), _input(3, 2, 2)
    check(lambda x: network(x.transpose(0, 1), (hidden, cell))[0].transpose(0, 1), _input(2, 3, 2))
    check(lambda h: network(constant, (h[None], h[None].exp()))[0].transpose(0, 1), _input(2, 3))


def test_one_sample_without_an_axis():
    network = _network(nn.GRU)
    check(lambda x: network(x)[0], _input(3, 2))


def test_dropout_between_layers_is_one_draw():
    network = _network(nn.LSTM, num_layers=3, dropout=0.5, batch_first=True)

    def f(x):
        torch.manual_seed(2)
        return network(x)[0]

    check(f, _input(2, 3, 2), exact=False)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_packed(kind):
    network = _network(kind, bidirectional=True, num_layers=2)

    def f(x):
        packed, last = network(PackedSequence(x, torch.tensor([3, 2, 1])))
        last = torch.cat(last) if isinstance(last, tuple) else last
        return torch.cat([packed.data.flatten(), last.flatten()])

    _checked(f, _input(6, 2))


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("bias", [True, False])
def test_cells(kind, bias):
    cell = _network(kind, bias=bias)

    def f(x):
        state = cell(x)
        return cell(x.sin(), state)[0] if kind is nn.LSTMCell else cell(x.sin(), state)

    check(f, _input(3, 2))
    check_parameters(f, _input(3, 2), list(cell.parameters()))
    single = _input(2)
    check(lambda x: cell(single * x[0])[0].reshape(1, -1), _input(1))


def test_relu_cell():
    check(_network(nn.RNNCell, nonlinearity="relu"), _input(3, 2))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_value_in_single_precision(kind):
    network = _network(kind, batch_first=True).float()
    x = _input(2, 3, 2).float()
    value, rows = propagated(lambda x: network(x)[0], x)
    assert torch.equal(value, network(x)[0])
    assert rows[0].dtype == torch.float32
