"""Attention on jets, against nested reverse mode through torch's plain implementation."""

from __future__ import annotations

import pytest
import torch
from jet_truth import check, check_parameters
from propagated import propagated
from torch import nn
from torch.nn import functional as F

from jacfunc.evaluation.corrections import corrected
from jacfunc.evaluation.corrections.attention import attention as plainly
from jacfunc.jet import fallback

MASK = torch.tensor([[True, True, False], [True, False, True], [False, False, False]])
ADDED = torch.randn(3, 3, dtype=torch.double, generator=torch.Generator().manual_seed(2))


def _input(*shape):
    return torch.randn(shape, dtype=torch.double, generator=torch.Generator().manual_seed(1))


def _self_attention(attention, **options):
    def f(x):
        return attention(x, x.sin(), x.cos(), **options)

    return f


OPTIONS = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "mask": {"attn_mask": ADDED},
    "boolean": {"attn_mask": MASK},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_attention(name):
    options = OPTIONS[name]
    f, reference = (_self_attention(a, **options) for a in (F.scaled_dot_product_attention, plainly))
    check(f, _input(2, 3, 2), reference=reference, exact=False)
    value, _ = propagated(f, _input(2, 3, 2))
    assert torch.equal(value, reference(_input(2, 3, 2)))


def test_grouped_queries():
    def f(attention):
        return lambda x: attention(x, x[:, :2].sin(), x[:, 2:].cos(), enable_gqa=True)

    check(f(F.scaled_dot_product_attention), _input(1, 4, 2, 1), reference=f(plainly), exact=False)


def test_constant_operands():
    key = _input(2, 3, 2)
    f = lambda attention: lambda x: attention(x, key, key.exp())
    check(f(F.scaled_dot_product_attention), _input(2, 2, 2), reference=f(plainly), exact=False)
    g = lambda attention: lambda x: attention(key, key.cos(), x)
    check(g(F.scaled_dot_product_attention), _input(2, 3, 2), reference=g(plainly), exact=False)


def test_one_mask_of_dropout():
    def f(attention):
        def seeded(x):
            torch.manual_seed(3)
            return attention(x, x.sin(), x.cos(), dropout_p=0.5)

        return seeded

    check(f(F.scaled_dot_product_attention), _input(2, 3, 2), reference=f(plainly), exact=False)


def test_the_plain_operator_and_its_weights():
    operator = torch.ops.aten._scaled_dot_product_attention_math
    keep = ADDED > 0
    check(lambda x: operator(x, x.sin(), x.cos())[1], _input(2, 3, 2))
    check(lambda x: operator(x, x, x.cos(), None, 0.5, dropout_mask=keep)[0], _input(2, 3, 2))
    check(lambda x: operator.default(x, x.sin(), x.cos(), is_causal=True)[0], _input(2, 3, 2))


def _module(kind, *args, **options):
    torch.manual_seed(0)
    return kind(*args, **options).double()


MODULES = {
    "attention": lambda: _attention_of(_module(nn.MultiheadAttention, 4, 2, batch_first=True)),
    "attention-weights": lambda: _attention_of(
        _module(nn.MultiheadAttention, 4, 2, batch_first=True, bias=False), need_weights=True
    ),
    "attention-bias-kv": lambda: _attention_of(
        _module(nn.MultiheadAttention, 4, 2, batch_first=True, add_bias_kv=True, add_zero_attn=True)
    ),
    "attention-masked": lambda: _attention_of(
        _module(nn.MultiheadAttention, 4, 1, batch_first=True), attn_mask=~torch.ones(2, 2).tril().bool()
    ),
    "attention-eval": lambda: _attention_of(_module(nn.MultiheadAttention, 4, 2, batch_first=True).eval()),
    "attention-padded": lambda: _attention_of(
        _module(nn.MultiheadAttention, 4, 2, batch_first=True), key_padding_mask=torch.tensor([[False, True]])
    ),
    "encoder": lambda: _module(nn.TransformerEncoderLayer, 4, 2, 3, batch_first=True).eval(),
    "encoder-gelu": lambda: _module(
        nn.TransformerEncoderLayer, 4, 2, 3, dropout=0.0, batch_first=True, norm_first=True, activation=F.gelu
    ),
    "decoder": lambda: _decoder(_module(nn.TransformerDecoderLayer, 4, 2, 3, dropout=0.0, batch_first=True)),
}


def _decoder(module):
    f = lambda x: module(x, x.cos())
    f.parameters = module.parameters
    return f


def _attention_of(module, need_weights=False, **options):
    def f(x):
        attended, weights = module(x, x.sin(), x, need_weights=need_weights, **options)
        return torch.cat([attended.flatten(1), weights.flatten(1)], 1) if need_weights else attended

    f.parameters = module.parameters
    return f


def _plain_backend(f):
    def run(x):
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
            return f(x)

    return run


@pytest.mark.parametrize("name", MODULES)
def test_modules(name, monkeypatch):
    def refuse(function, *_):
        raise AssertionError(fallback.name_of(function))

    monkeypatch.setattr("jacfunc.jet.dispatch.pushed", refuse)
    f = MODULES[name]()
    x = _input(1, 2, 4)
    check(f, x, 2, reference=_plain_backend(f), exact=False)


def test_a_mask_that_varies():
    """Only of the function: the module itself asks whether it is a tensor."""
    weight, bias = _input(6, 2), torch.zeros(2).double()

    def f(x):
        given = (2, 1, weight, None, None, None, False, 0.0, weight[:2], bias)
        return F.multi_head_attention_forward(x, x, x, *given, attn_mask=x[:, 0] @ x[:, 0].T)[0]

    check(f, _input(3, 1, 2), 2, reference=_plain_backend(f), exact=False)


@pytest.mark.parametrize("name", ["attention", "encoder-gelu"])
def test_parameters_of_modules(name):
    f = MODULES[name]()

    def exact(x):  # torch's layer_norm is wrong from the third derivative on
        with corrected():
            return f(x)

    check_parameters(f, _input(1, 2, 4), list(f.parameters()), exact)
