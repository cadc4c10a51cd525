"""Every private name of torch that is used here, under a name of ours: what for, and what there is without it.

This is the file to read against a new version of torch; no other says ``torch._...`` (``tests/test_torch_private.py``,
which also tries each).  What asks or changes nothing when it is loaded is bound at once, so that a call costs what
torch's own costs; what would load ``torch._dynamo`` or ``torch._inductor`` is behind a function.  Used elsewhere as it
is: what torch documents of an object in spite of its name (``_version`` of a tensor, the containers and hooks of a
module).

What of torch is exchanged, where, and until when:

- ``_CheckpointFrame`` and ``CheckpointFunction`` of ``torch.utils.checkpoint``, while any thread evaluates, or calls a
  module with parameters of the caller's (``evaluation/checkpoint.py``);
- ``__call__`` of scripted functions and methods, while any thread evaluates (``evaluation/scripted.py``);
- ``_cache`` of ``torch.nn.utils.parametrize``, within ``parametrize.cached()``, for one such call
  (``modules/swapping.py``);
- whether gradients are recorded, while a rule or layers run on jets that nobody differentiates (``jet/dispatch.py``,
  ``jet/layers.py``);
- whether forward mode is on, within a ``no_grad`` of an evaluation, until its end (``evaluation/corrections``);
- Dynamo's list of the functions that it hands to a mode, once it traces an evaluation: for good, since all it changes
  is that a mode, if there is one, is told (``evaluation/corrections``);
- torch's table of trees, in which ``Derivatives`` is entered as any program may: for good (``api/derivatives.py``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from operator import attrgetter, methodcaller
from types import CodeType
from typing import Any, TypeVar

import torch
import torch.utils.checkpoint
from torch import overrides
from torch.autograd import forward_ad, graph
from torch.nn import functional as F
from torch.nn.modules import batchnorm, module
from torch.nn.utils import parametrize
from torch.torch_version import TorchVersion
from torch.utils import _python_dispatch, _pytree

Functions = tuple[Callable[..., Any], ...]
Marked = TypeVar("Marked", bound=Callable[..., Any])

LEVELS_TRACED = TorchVersion(torch.__version__) >= TorchVersion("2.13")
"""Whether Dynamo follows a question for the levels around a call."""

# -------------------------------------------------------------------- the levels of torch.func, which has no question

_functorch: Any = torch._C._functorch

level_count: Callable[[], int] = _functorch.get_dynamic_layer_stack_depth
"""How many transforms are around; without it nobody knows that values may not be looked at or remembered."""
level_stack: Callable[[], list[Any] | None] = _functorch.get_interpreter_stack
"""Those transforms, outermost first, or None; each has a ``key()`` and a ``level()``."""
VMAP: Any = _functorch.TransformType.Vmap
"""The key of ``torch.func.vmap``."""
JVP: Any = _functorch.TransformType.Jvp
"""The key of ``torch.func.jvp``."""
is_wrapped: Callable[[torch.Tensor], bool] = _functorch.is_functorch_wrapped_tensor
"""Whether a tensor is a transform's wrapper of another one."""
is_batched: Callable[[torch.Tensor], bool] = _functorch.is_batchedtensor
"""Whether it is the wrapper of a ``vmap``."""
is_tracked: Callable[[torch.Tensor], bool] = _functorch.is_gradtrackingtensor
"""Whether it is the wrapper of a derivative."""
level_of: Callable[[torch.Tensor], int] = _functorch.maybe_get_level
"""The level that a wrapper belongs to."""
unwrapped: Callable[[torch.Tensor], torch.Tensor] = _functorch.get_unwrapped
"""What a wrapper is of; ``torch.func.debug_unwrap`` asks first what it is, and is for debuggers by its own words."""


def innermost(tensor: torch.Tensor) -> torch.Tensor:
    """What all the wrappers around a tensor are of."""
    while is_wrapped(tensor):
        tensor = unwrapped(tensor)
    return tensor


batch_dim: Callable[[torch.Tensor], int] = _functorch.maybe_get_bdim
"""Which axis of what a ``vmap`` wraps is its own."""


@functools.cache
def through_transforms() -> CodeType:
    """What an ``autograd.Function`` goes through inside of a transform, with its arguments as they came."""
    from torch._functorch.autograd_function import custom_function_call

    return type(custom_function_call).__call__.__code__


def outside_transforms() -> AbstractContextManager[Any]:
    """A context in which no transform is around, for what was unwrapped; else nothing could be verified inside one."""
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    return temporarily_clear_interpreter_stack()


# -------------------------------------------------------------------- torch.compile, torch.export


def _exporting_flag() -> bool:
    return torch.compiler._is_exporting_flag


any_thread_exports = torch.compiler.is_exporting if LEVELS_TRACED else _exporting_flag
"""``torch.compiler.is_exporting``, which Dynamo of torch 2.11 takes for True in each trace; what it reads is right."""
dispatch_mode: Callable[[Any], Any] = torch._C._get_dispatch_mode
"""The mode of a kind that runs in this thread; the question before is answered for all threads."""
FAKE: Any = torch._C._TorchDispatchModeKey.FAKE
"""The kind of the mode in which tensors are fake, as they are where ``torch.export`` runs."""

DYNAMO = "torch._dynamo"
"""The module whose presence tells that all of ``torch.compile`` is loaded; to ask it would load it.

Torch loads it by itself too, when ``torch.func.jacrev`` is first called.
"""
PRIVATE = "torch._"
"""How the names of torch's private modules begin, whose guards nobody needs."""


@functools.cache
def dynamo_error() -> type[Exception]:
    """What Dynamo raises, which has no public name; to be asked where Dynamo is loaded, or will be."""
    return torch._dynamo.exc.TorchDynamoException


def constant_in_traces(function: Marked) -> Marked:
    """Let Dynamo run a function while it traces, and take the result for a constant.

    ``torch.compiler.assume_constant_result`` does the same and imports Dynamo, which takes longer than jacfunc's own.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


class Traceable:
    """A base of callable objects, in whose place ``torch.compile`` traces a function: that of ``traceable()``.

    Dynamo looks these two names up, and where it does not, nothing is lost but that (``call/entrance.py``).
    """

    def traceable(self) -> Callable[..., Any]:
        """What is traced in place of calling this."""
        raise NotImplementedError

    @property
    def _torchdynamo_orig_callable(self) -> Callable[..., Any]:
        return self.traceable()

    @property
    def _torchdynamo_wrapper_id(self) -> int:
        return id(self)


def handed_to_modes() -> set[Any]:
    """What Dynamo hands to a mode: its copy of a list in ``torch.overrides``, which lacks what torch does not test."""
    from torch._dynamo.variables.torch import get_overridable_functions

    return get_overridable_functions()


def inductor() -> tuple[Any, Any, Any]:
    """Inductor's ``codecache``, ``config`` and ``cpu_vec_isa``, which have no public form but options of a call.

    All that need one another are loaded here: two threads that do it would find it half done.
    """
    from torch._inductor import codecache, config, cpp_builder, cpu_vec_isa  # noqa: F401

    return codecache, config, cpu_vec_isa


def header_folder(codecache: Any) -> str | None:
    """Where Inductor keeps the compiled header of all kernels."""
    return getattr(codecache, "_HEADER_DIR", None)


# -------------------------------------------------------------------- modes, classes, and the switches of derivatives

set_grad: Callable[[bool], None] = torch._C._set_grad_enabled
"""Gradients on or off; ``torch.set_grad_enabled`` makes an object first, which takes four times as long.

It is also what a mode is told by ``no_grad`` and its kin.
"""
is_forward_mode_on: Callable[[], bool] = torch._C._is_fwd_grad_enabled
"""Whether forward mode goes through operations, which it does not in the forward of an ``autograd.Function``."""
set_forward_mode: Callable[[bool], None] = torch._C._set_fwd_grad_enabled
"""The switch of that; ``no_grad`` leaves it as it is, so that torch's forward mode has a derivative there."""


def dual_level() -> int:
    """The level of ``torch.autograd.forward_ad`` that is entered, by any thread, or -1.

    ``unpack_dual`` tells what one tensor has, and takes a call of torch for it.
    """
    return forward_ad._current_level


WithoutModesOrClasses: Any = torch._C.DisableTorchFunction
"""A context in which neither modes nor classes of tensors are told of an operation."""
WithoutClasses: Any = torch._C.DisableTorchFunctionSubclass
"""A context in which classes of tensors are not told; torch's pages on extending it name it, and no other."""
are_classes_told: Callable[[], bool] = torch._C._is_torch_function_enabled
"""Whether they are."""
mode_count: Callable[[], int] = torch._C._len_torch_function_stack
"""How many modes are told of each operation, without the list of them that :data:`modes` makes."""
modes: Callable[[], Sequence[Any]] = overrides._get_current_function_mode_stack
"""Those modes, outermost first."""
autocasting: Callable[[], bool] = torch._C._is_any_autocast_enabled
"""Whether autocast is on for any kind of device; ``torch.is_autocast_enabled`` asks for one, by name."""


class DispatchMode(_python_dispatch.TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The base of modes told of what is left of an operation below autograd; torch's notes have it by this path."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch loads Dynamo at the first operation, to keep it out of there


# -------------------------------------------------------------------- autograd's graph

run_engine: Callable[..., tuple[torch.Tensor | None, ...]] = graph._engine_run_backward
"""The call at the end of ``torch.autograd.grad``, which compares shapes before it and loads sympy to that end."""
next_node_number: Callable[[], int] = torch._C._autograd._get_sequence_nr
"""The number that the next node gets in this thread; what is older than a moment could not be told without it."""
node_number: Callable[[Any], int] = methodcaller("_sequence_nr")
"""The number of a node: the abstract class ``torch.autograd.graph.Node`` has it under this name."""
arguments_of: Callable[[Any], Sequence[Any]] = attrgetter("_input_metadata")
"""Shape and dtype of each tensor that a node's backward takes; the abstract class has it under this name as well."""
SAVED = "_saved_"
"""How the attributes of a node begin that hold what it keeps for its backward, as torch's notes on autograd have it."""
RAW_SAVED = "_raw_saved_"
"""How those begin that hold it unopened, of the nodes of ``autograd.Function`` too: looking in runs no hook."""
GRADIENT_HOOKS, AFTER_HOOKS, OPTIMISERS = "_backward_hooks", "_post_accumulate_grad_hooks", "_in_backward_optimizers"
"""Attributes of a leaf: hooks given its gradient, hooks called after, and optimisers that its backward steps."""
data_getter: Callable[..., Any] = torch._C._autograd._get_data_attr  # type: ignore[attr-defined]
"""Access to ``.data``, as Dynamo tells a mode of it."""
base_of: Callable[[torch.Tensor], torch.Tensor | None] = attrgetter("_base")
"""What a tensor is a view of, as autograd knows it, under ``no_grad`` as well; None if it is of nothing."""
is_zero_tensor: Callable[[torch.Tensor], bool] = torch.Tensor._is_zerotensor
"""Whether a tensor is zeros without memory, which forward mode makes, and which cannot be written to."""

# -------------------------------------------------------------------- C functions behind public ones, operators

c_nn: Any = torch._C._nn
"""What the functions of ``torch.nn.functional`` call: their bodies run with jets inside, which are handed these.

Where both are one object, as ``F.gelu`` is, the public name is used.
"""


c_torch: Any = torch._VF
"""Those behind ``torch.split``, ``torch.norm`` and others that are Python functions."""
UPSAMPLING = ("upsample_", "_upsample_")
"""How functions in there begin that change the size of images; those with antialiasing have no other name."""
IMPLEMENTED_IN = ("torch.nn.functional", "torch.functional", "torch._tensor")
"""The modules that Python functions and methods of torch say they are of; their bodies run with jets inside."""
default_axis: Callable[[str, int, int], int] = F._get_softmax_dim  # type: ignore[attr-defined]
"""The axis of a softmax without one, and torch's warning of it."""
OpOverload = torch._ops.OpOverload
"""The class of ``torch.ops.aten.add.Tensor``, which has no public name."""
OpOverloadPacket = torch._ops.OpOverloadPacket
"""The class of ``torch.ops.aten.add``."""
is_mutable: Callable[[Any], bool] = attrgetter("_schema.is_mutable")
"""Whether a form of an operator writes to an argument, ``out=`` among them, as declared."""


def written_arguments(function: Any) -> set[int]:
    """The places of the arguments that an operator, or any form of it, writes to, as declared; ``out=`` has none."""
    several: Any = function.overloads() if type(function) is OpOverloadPacket else None  # type: ignore[no-untyped-call]
    forms = [function] if several is None else [getattr(function, form) for form in several]
    declared = [enumerate(form._schema.arguments) for form in forms]
    return {
        place
        for arguments in declared
        for place, argument in arguments
        if argument.is_write and not argument.kwarg_only
    }


math_attention: Any = torch.ops.aten._scaled_dot_product_attention_math
"""Attention from matmul and softmax, which every order of derivative goes through.

``torch.nn.attention.sdpa_kernel`` has ``F.scaled_dot_product_attention`` take it, by a switch for all threads.
"""
native_flash: Callable[..., Any] = torch._scaled_dot_product_flash_attention_for_cpu
"""The kernel that also returns logarithms; only those are taken of it."""
safe_softmax: Any = torch.ops.aten._safe_softmax
"""A softmax that is zero where all is masked, as in that attention; ``torch.softmax`` has NaN there."""
native_det: Callable[..., tuple[torch.Tensor, ...]] = torch._linalg_det
"""``torch.linalg.det`` with its factors; who calls it expects these as well."""
indexed_native: Callable[..., Any] = torch._batch_norm_impl_index
"""``torch.batch_norm`` with statistics and the number of its kernel, for the same reason."""
draw_gamma: Callable[..., torch.Tensor] = torch._standard_gamma
"""What ``torch.distributions.Gamma`` draws by; nothing public takes the draw of a generator."""
gamma_slope: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = torch._standard_gamma_grad
"""The derivative of a draw by its parameter, of which torch has no second one."""


def operators(*names: str) -> Functions:
    """Operations as they are called by ``torch.ops.aten``, but for the forms with ``out=``."""
    packets = [getattr(torch.ops.aten, name) for name in names]
    forms = [getattr(packet, form) for packet in packets for form in packet.overloads() if "out" not in form]
    return *packets, *forms


# Operations that a function may call by a private name, as torch's Python code does, and whose derivatives are wrong or
# missing: the table of corrections has them beside the public ones, or it would let them pass.

BATCH_NORMS: Functions = (
    torch._native_batch_norm_legit,
    *operators("_native_batch_norm_legit", "_native_batch_norm_legit_functional"),
    *operators("_batch_norm_with_update", "_batch_norm_with_update_functional"),
)
INDEXED_BATCH_NORMS: Functions = (indexed_native, *operators("_batch_norm_impl_index"))
FLASH_ATTENTION: Functions = (native_flash, *operators("_scaled_dot_product_flash_attention_for_cpu"))
TO_SPARSE: Functions = (torch.Tensor._to_sparse, *operators("_to_sparse"))
SPARSE_MM: Functions = operators("_sparse_mm")
CTC_LOSS: Functions = (torch._ctc_loss, *operators("_ctc_loss"))
UNIQUE: Functions = (torch._unique, torch._unique2, *operators("_unique", "_unique2"))
EMBEDDING_BAG: Functions = (
    *(torch._embedding_bag, torch._embedding_bag_forward_only),
    *operators("_embedding_bag", "_embedding_bag_forward_only"),
)
DET: Functions = (native_det, *operators("_linalg_det"))
CDIST: Functions = operators("_cdist_forward")
PDIST: Functions = operators("_pdist_forward")
GAMMA: Functions = (draw_gamma, *operators("_standard_gamma"))

# -------------------------------------------------------------------- modules, trees, checkpoints, scripts

BatchNorm = batchnorm._BatchNorm
"""The base of all batch normalisations, also of those that other libraries derive from it alone."""
GLOBAL_HOOKS: tuple[dict[int, Any], ...] = (
    module._global_forward_hooks,
    module._global_forward_pre_hooks,
    module._global_backward_hooks,
    module._global_backward_pre_hooks,
)
"""What was registered for the calls of all modules, by the numbers of the handles; torch tells nobody of it."""
RNN_TENSORS = "_flat_weight"
"""How the attributes of a recurrent layer begin that a forward may rebuild: the list that its kernel is handed."""
MODULE_CALL = "_call_impl"
"""The function of torch in whose frames ``self`` is the module that is called: where in a model an error arose."""
HIGHER_ORDER = "_higher_order_ops"
"""The folder whose files are named after ``torch.cond`` and its kin, which an error of them does not name."""
PARAMETRIZATIONS: dict[str, Any] = vars(parametrize)
"""The state of ``parametrize.cached()``, which would hand one call the weights of another's parameters."""
CACHING, CACHED = "_cache_enabled", "_cache"
"""Names in there: how many of these contexts are entered, and the weights by module and name."""
CHECKPOINTING: dict[str, Any] = vars(torch.utils.checkpoint)
"""What is in torch's module of checkpoints; what surrounds a second run only its caller may say (``context_fn``)."""
CHECKPOINT_FRAME = "_CheckpointFrame"
"""The class in there by which ``checkpoint(use_reentrant=False)`` remembers its function."""


NON_PERSISTENT = "_non_persistent_buffers_set"
"""Where a module keeps the names of buffers that are in no state dict: two modules that share buffers share it."""


NODES: dict[type, Any] = _pytree.SUPPORTED_NODES
"""How torch's pytree takes classes apart; nothing public says of which it was told."""
register_tree: Callable[..., None] = _pytree.register_pytree_node
"""Tell it of a class, as ``torch.func`` and ``torch.compile`` need; the public form is for dataclasses in exports."""
ScriptMethod: type = torch._C.ScriptMethod
"""The class of a scripted module's methods; that of functions is ``torch.jit.ScriptFunction``."""
inline_forks: Callable[[Any], None] = torch._C._jit_pass_inline_fork_wait
"""Let a graph do what it forks in its own thread: others would run optimised code."""
inline_calls: Callable[[Any], None] = torch._C._jit_pass_inline
"""Let a graph do what the functions that it calls do."""
function_of_graph: Callable[[str, Any], Any] = torch._C._create_function_from_graph
"""A scripted function of a graph, which nobody else calls."""


# -------------------------------------------------------------------- modules that share a process group


def ready_to_run(ddp: Any) -> None:
    """What the next forward of a ``DistributedDataParallel`` would do with other ranks, done now on each of them."""
    with torch.enable_grad():
        ddp.reducer._rebuild_buckets()
    if ddp._check_sync_bufs_pre_fwd():
        ddp._sync_buffers()


def sharded_groups(module: Any) -> list[Any]:
    """What ``fully_shard`` knows of a module's parameters by group: the divisor, gradients that are not reduced yet."""
    state = module._get_fsdp_state()
    groups = getattr(state, "_fsdp_param_groups", None)
    found = [state._fsdp_param_group] if groups is None else groups  # torch 2.11 has one
    return [group for group in found if group is not None]


def unsharded(group: Any) -> list[torch.Tensor]:
    """The whole parameters of such a group, which take its place in a forward."""
    return [each._unsharded_param for each in group.fsdp_params if hasattr(each, "_unsharded_param")]
