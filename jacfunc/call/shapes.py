"""Shapes that transforms refuse, and which other argument of the same call has the right one."""

from __future__ import annotations

from ..core import trees
from ..errors import ShapeError
from ..routes.collect import have_diagonal
from .evaluator import Outputs
from .request import Request


def axes_ahead(request: Request, of_rows: bool = False) -> tuple[int, int]:
    """How many axes of an output, and of the input, lie before those that have a diagonal."""
    return (1, 1) if of_rows else (request.options.out_axis, 0)


def refuse_without_diagonal(request: Request, outputs: Outputs, of_rows: bool = False) -> None:
    """Refuse outputs that have no diagonal with an input."""
    ahead, own = axes_ahead(request, of_rows)
    for output, path in zip(outputs.shapes, outputs.paths(), strict=True):
        for shape, input_path in zip(request.input_shapes, request.input_paths(), strict=True):
            if not have_diagonal(output[ahead:], shape[own:]):
                raise ShapeError(
                    f"{path} has sample shape {output[ahead:]} and {input_path} {shape[own:]}, without a common "
                    "diagonal: one must have a single element, or equal rank and each axis equal or 1; use batch_jac "
                    f"for all{_instead(request, outputs)}"
                )


def refuse_unequal_trees(request: Request, outputs: Outputs) -> None:
    """Refuse outputs that are not built and shaped as the input."""
    ahead = request.options.out_axis
    given = [argument.structure for argument in request.arguments]
    shapes = request.input_shapes
    unequal = isinstance(request.options.argnums, int) and outputs.structure != given[0]
    if unequal or len(outputs.shapes) != len(shapes):
        raise ShapeError(
            f"the divergence needs an output that is built as the input, but the output is {outputs.structure!r} "
            f"and the input {', '.join(map(repr, given))}; use diag_jac or batch_jac{_instead(request, outputs)}"
        )
    for output, path, shape, input_path in zip(
        outputs.shapes, outputs.paths(), shapes, request.input_paths(), strict=True
    ):
        if output[ahead:] != shape or output[:ahead] != outputs.shapes[0][:ahead]:
            raise ShapeError(
                f"{path} has sample shape {output[ahead:]} and {input_path} {shape}, but the divergence needs equal "
                f"ones; use diag_jac, batch_jac, or laplacian{_instead(request, outputs)}"
            )


def _instead(request: Request, outputs: Outputs) -> str:
    """Which other argument is built and shaped as the output."""
    wanted = [(*request.batch, *shape) for shape in outputs.shapes]
    return request.instead(lambda structure, shapes: structure == outputs.structure and shapes == wanted)


def refuse_curl(request: Request, outputs: Outputs) -> None:
    """Refuse what is no vector field in two or three dimensions."""
    shapes = (*request.input_shapes, *(shape[request.options.out_axis :] for shape in outputs.shapes))
    if shapes not in (((2,), (2,)), ((3,), (3,))):
        found = " and ".join(map(str, request.input_shapes)), " and ".join(map(str, outputs.shapes))
        raise ShapeError(
            "the curl needs one input and one output of sample shape (2,) or (3,) both, but the input has "
            f"{found[0]} and the output {found[1]}; pass such a field, or use batch_jac{_instead(request, outputs)}"
        )


def instead_of_coordinates(request: Request, count: int) -> str:
    """Which other argument is one tensor with all coordinates."""
    axes = request.options.batch_dims
    return request.instead(lambda structure, shapes: structure is trees.LEAF and shapes[0][axes:] == (count,))
