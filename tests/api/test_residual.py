"""``residual``: what an equation reads is found out, and what it returns is checked."""

from __future__ import annotations

import pytest
import torch
from backends import by_backend
from partial_truth import close, network
from torch import nn
from torch.nn import functional as F

from jacfunc import (
    ArgumentTypeError,
    NotationError,
    ShapeError,
    UnsupportedOperationError,
    batch_jac,
    diag_jac,
    explain,
    make_functional,
    partials,
    residual,
)


def test_nothing_is_known_to_be_read_before_the_first_call():
    f, params, points = setting()
    equation = residual(f, lambda d: [d.u_t, d.u_x], inputs="t x", outputs="u")
    assert equation.names == ()
    assert type(equation(params, points)) is list  # which is as good as a tuple
    assert equation.names == ("u_t", "u_x")


def setting(outputs=1):
    f, params = make_functional(network("tanh", 2, outputs))
    return f, params, torch.randn(5, 2, dtype=torch.double)


def test_an_equation_without_a_string():
    f, params, tx = setting()
    burgers = residual(f, lambda d: d.u_t + d.u * d.u_x - 0.1 * d.u_xx + d.x, inputs="t x", outputs="u")
    u, u_t, u_x, u_xx = partials(f, "u u_t u_x u_xx", inputs="t x", outputs="u")(params, tx)
    close(burgers(params, tx), u_t + u * u_x - 0.1 * u_xx + tx[:, 1])
    assert set(burgers.names) == {"u_t", "u", "u_x", "u_xx"}
    assert repr(burgers).endswith("inputs='t x', outputs='u')")
    assert explain(burgers)(params, tx).plan.rows == 3


def test_several_equations():
    f, params, tx = setting(2)
    system = residual(f, lambda d: (d.u_t - d.v_xx, d.u + d.v), inputs="t x", outputs="u v")
    one, two = system(params, tx)
    d = partials(f, "u v u_t v_xx", inputs="t x", outputs="u v")(params, tx)
    close(one, d.u_t - d.v_xx)
    close(two, d.u + d.v)


def test_a_name_in_another_branch():
    f, params, tx = setting()
    late = False
    equation = residual(f, lambda d: d.u_t - (d.u_xxx if late else d.u_x), inputs="t x", outputs="u")
    d = partials(f, "u_t u_x u_xxx", inputs="t x", outputs="u")(params, tx)
    close(equation(params, tx), d.u_t - d.u_x)
    late = True
    close(equation(params, tx), d.u_t - d.u_xxx)
    assert equation.names == ("u_t", "u_x", "u_xxx")
    late = False
    close(equation(params, tx), d.u_t - d.u_x)


def test_a_branch_that_depends_on_values():
    f, params, tx = setting()

    def equation(d):
        # The dry run has the value of u in place of its derivative, and stops at the first assertion.
        assert not torch.equal(d.u_t, d.u)
        return d.u_t - d.u_xx

    d = partials(f, "u_t u_xx", inputs="t x", outputs="u")(params, tx)
    close(residual(f, equation, inputs="t x", outputs="u")(params, tx), d.u_t - d.u_xx)


def test_a_random_function_has_one_mask_in_every_branch():
    f = lambda tx: F.dropout(tx[:, 0], 0.5)  # so u is t times u_t if both have the same mask
    tx = torch.rand(50, 2, dtype=torch.double) + 1
    late = False
    equation = residual(f, lambda d: d.u - d.t * d.u_t if late else d.u, inputs="t x", outputs="u")
    assert (equation(tx) == 0).any()
    late = True
    assert equation(tx).abs().max() == 0


def test_the_dry_run_draws_nothing():
    net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 1)).double()
    tx = torch.randn(5, 2, dtype=torch.double)
    torch.manual_seed(1)
    found = residual(net, lambda d: d.u_xx, inputs="t x", outputs="u")(tx)
    torch.manual_seed(1)
    assert torch.equal(found, partials(net, "u_xx", inputs="t x", outputs="u")(tx).u_xx)


def test_the_dry_run_leaves_the_draws_of_the_equation():
    f, params, tx = setting()
    noisy = lambda d: d.u_t + torch.randn(5, dtype=torch.double)
    torch.manual_seed(1)
    found = residual(f, noisy, inputs="t x", outputs="u")(params, tx)
    torch.manual_seed(1)
    assert torch.equal(found, noisy(partials(f, "u_t", inputs="t x", outputs="u")(params, tx)))


def test_a_name_that_is_met_while_torch_compile_traces():
    f, params, tx = setting()
    late = False
    equation = residual(f, lambda d: d.u_xx if late else d.u_t, inputs="t x", outputs="u")
    equation(params, tx)
    late = True
    with pytest.raises(Exception, match=r"reads u_xx, which it did not when it was called before|Observed exception"):
        torch.compile(lambda params, tx: equation(params, tx), fullgraph=True, backend="eager")(params, tx)
    want = equation(params, tx)
    close(torch.compile(lambda params, tx: equation(params, tx), fullgraph=True, backend="eager")(params, tx), want)


@pytest.mark.parametrize(
    ("equation", "message"),
    [
        (lambda d: d.u_t[:, None] - d.u, r"the residual has shape \(5, 5\), but one number for each sample was"),
        (lambda d: d.u_t[:, None], r"the residual has shape \(5, 1\).*drop it with \[:, 0\]"),
        (
            lambda d: d.u_t[d.t > d.t.mean()],
            r"the residual has shape \(\d,\).*select samples outside of the residual, or",
        ),
        (lambda d: d.u_t.mean(), r"the residual has shape \(\).*reduce it outside of the residual"),
        (lambda d: (d.u, d.u_t[:2]), r"residual 1 has shape \(2,\)"),
    ],
)
def test_other_shapes_are_refused(equation, message):
    f, params, tx = setting()
    with pytest.raises(ShapeError, match=message):
        residual(f, equation, inputs="t x", outputs="u")(params, tx)


@pytest.mark.parametrize("recorded", [False, True])
def test_what_the_equation_writes_to_coordinates_is_its_own(recorded):
    def f(t, x):
        return (t * x).sin()

    t, x = [each.requires_grad_(recorded) * 1 for each in torch.rand(2, 5, dtype=torch.float64)]
    before, wanted = (t.detach().clone(), x.detach().clone()), x * torch.cos(t * x) + 2 * x
    for call, args in ((f, (t, x)), (lambda tx: f(*tx.unbind(1))[:, None], (torch.stack([t, x], 1),))):
        equation = residual(call, lambda d: d.u_t + d.x.mul_(2), inputs="t x", outputs="u")
        whole = args[0].detach().clone()
        for _ in range(3):
            torch.testing.assert_close(equation(*args), wanted)
        assert torch.equal(args[0], whole)
    assert torch.equal(t, before[0]) and torch.equal(x, before[1])


def test_an_error_of_the_equation_says_which_shapes_the_names_have():
    f, params, tx = setting()
    equation = residual(f, lambda d: d.u_t - d.u_xx - torch.zeros(3), inputs="t x", outputs="u")
    for _ in range(2):
        with pytest.raises(RuntimeError) as raised:
            equation(params, tx)
        assert raised.value.__notes__ == [
            f"jacfunc: raised inside the equation of residual({f!r}), with u_t of shape (5,) and u_xx of shape (5,)"
        ]
    with pytest.raises(RuntimeError, match="got RuntimeError"):  # while it is traced
        torch.compile(equation, backend="eager")(params, tx)


def test_other_results_are_refused():
    f, params, tx = setting()
    with pytest.raises(ArgumentTypeError, match="the residual is a dict; return a tensor of shape"):
        residual(f, lambda d: {"a": d.u}, inputs="t x", outputs="u")(params, tx)
    with pytest.raises(ArgumentTypeError, match="empty tuple"):
        residual(f, lambda d: (), inputs="t x", outputs="u")(params, tx)
    with pytest.raises(ArgumentTypeError, match="equation is a str; pass a function of the derivatives"):
        residual(f, "u_t", inputs="t x", outputs="u")


def test_unknown_names_are_refused():
    f, params, tx = setting()
    wrong = residual(f, lambda d: d.u_t - d.u_z, inputs="t x", outputs="u")
    for _ in range(2):
        with pytest.raises(NotationError, match="'u_z' has the subscript 'z'"):
            wrong(params, tx)
    assert wrong.names == ()
    assert not hasattr(wrong, "_anything")


def test_a_late_name_is_not_for_the_handlers_of_the_equation():
    f, params, tx = setting()

    def equation(d):
        try:
            return d.u_xx if late else d.u_x
        except Exception:
            return 0 * d.u

    def careless(d):
        try:
            return d.u_xx if late else d.u_x
        except:  # noqa: E722
            return 0 * d.u

    d = partials(f, "u_x u_xx", inputs="t x", outputs="u")(params, tx)
    for of in (equation, careless):
        late = False
        found = residual(f, of, inputs="t x", outputs="u")
        close(found(params, tx), d.u_x)
        late = True
        close(found(params, tx), d.u_xx)


def test_the_dry_run_hands_out_copies():
    f, params, tx = setting()
    before = tx.clone()
    seen = []

    def equation(d):
        if not seen:
            d.x.sub_(1)
            d.u.zero_()
            seen.append(d.u_x.abs().max())
        return d.u_x + d.u

    found = residual(f, equation, inputs="t x", outputs="u")(params, tx)
    assert torch.equal(tx, before)
    assert seen[0] > 0
    u_x, u = partials(f, "u_x u", inputs="t x", outputs="u")(params, tx)
    close(found, u_x + u)


def test_a_residual_of_inputs_alone():
    f, params, tx = setting()
    close(residual(f, lambda d: d.t * d.x, inputs="t x", outputs="u")(params, tx), tx.prod(1))


def test_values_and_aux_come_last():
    f, params, tx = setting()
    g = lambda params, tx: (f(params, tx), tx.sum(1))
    found, value, aux = residual(g, lambda d: d.u_t, inputs="t x", outputs="u", has_aux=True, return_value=True)(
        params, tx
    )
    assert found.shape == (5,)
    assert torch.equal(value, f(params, tx))
    assert torch.equal(aux, tx.sum(1))


def test_shared_points():
    f = lambda a, x: a[:, None] * x[None, :, 0] ** 2
    a, x = torch.randn(3, dtype=torch.double), torch.randn(4, 1, dtype=torch.double)
    found = residual(f, lambda d: d.u_xx + d.x - d.x, inputs="x", outputs="u", out_dims=1)(a, x)
    close(found, 2 * a[:, None].expand(3, 4))


def test_transforms_over_it():
    f, params, tx = setting()
    kuramoto = residual(f, lambda d: d.u_t + d.u * d.u_x + d.u_xx + d.u_xxxx, inputs="t x", outputs="u")
    frozen = {name: tensor.detach().clone() for name, tensor in params.items()}
    loss = lambda params: kuramoto(params, tx).square().mean()
    by_func = torch.func.grad(loss)(frozen)
    loss(params).backward()
    for name, gradient in by_func.items():
        close(params[name].grad, gradient)
    ensemble = {name: torch.stack([tensor, 2 * tensor]) for name, tensor in frozen.items()}
    both = torch.func.vmap(kuramoto, in_dims=(0, None))(ensemble, tx)
    close(both[0], kuramoto(frozen, tx))
    jacobian = torch.func.jacrev(kuramoto)(frozen, tx)
    total = {
        name: (kuramoto(frozen, tx)[:, *(None,) * (j.dim() - 1)] * j).sum(0) * 2 / 5 for name, j in jacobian.items()
    }
    for name, gradient in by_func.items():
        close(total[name], gradient)


def test_transforms_of_it():
    f, params, tx = setting()
    heat = residual(f, lambda d: d.u_t - d.u_xx, inputs="t x", outputs="u")
    d = partials(f, "u_tt u_tx u_txx u_xxx", inputs="t x", outputs="u")(params, tx)
    gradient = diag_jac(heat)(params, tx)
    close(gradient, torch.stack([d.u_tt - d.u_txx, d.u_tx - d.u_xxx], 1))
    named = batch_jac(partials(f, "u_tx", inputs="t x", outputs="u"))(params, tx)
    close(named.u_tx[:, 1], d.u_txx)
    close(named.x, torch.tensor([0.0, 1.0], dtype=torch.double).expand(5, 2))


@by_backend("eager")
def test_compiled_after_a_first_call(backend):
    f, params, tx = setting()
    heat = residual(f, lambda d: d.u_t - d.u_xx, inputs="t x", outputs="u")
    compiled = torch.compile(lambda params, tx: heat(params, tx), fullgraph=True, backend=backend)
    with pytest.raises(Exception, match="call it once before") as caught:
        compiled(params, tx)
    assert "call it once before" in str(caught.value)
    eager = heat(params, tx)
    torch._dynamo.reset()
    close(compiled(params, tx), eager)
    assert issubclass(UnsupportedOperationError, NotImplementedError)


def test_compiled_before_any_call():
    f, params, tx = setting()
    heat = residual(f, lambda d: d.u_t - d.u_xx, inputs="t x", outputs="u")
    compiled = torch.compile(lambda params, tx: heat(params, tx).square(), backend="eager")
    first, then = compiled(params, tx), compiled(params, tx)
    close(first, heat(params, tx).square())
    close(then, first)
