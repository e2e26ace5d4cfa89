"""One graph of plain tensor operators from a function that may differentiate inside."""

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._decomp import core_aten_decompositions
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn.attention import SDPBackend, sdpa_kernel

BATCH = 7  # of the trace; a fixed number of images in the graph is then easily recognized

aten = torch.ops.aten


def trace(function: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor]) -> ExportedProgram:
    """The graph of a function of batches, for any number of images.

    Backward passes become ordinary operators of the graph. The other sizes are those of the inputs.
    What a function computes twice is computed once.

    Args:
        function: Function of tensors whose first dimension is that of the batch. Its parameters
            name the inputs of the graph.
        inputs: An example of each input.

    Raises:
        RuntimeError: Of whatever kind, if an operator cannot be traced.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    fakes = [_fake(mode, each) for each in inputs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own internals
        with mode, enable_python_dispatcher(), sdpa_kernel(SDPBackend.MATH):
            graph = make_fx(function, decomposition_table=_table())(*fakes)
        _share_constants(graph)
        names = list(inspect.signature(function).parameters)
        batch = Dim("batch")
        program: ExportedProgram = torch.export.export(
            _NAMED[len(names)](graph),
            tuple(inputs),
            dynamic_shapes={name: {0: batch} for name in names},
        ).run_decompositions({})
        _share(program)
    return program


class _Images(nn.Module):
    """A graph whose only input is named `images`."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.inner = graph

    def forward(self, images: Tensor) -> Any:
        return self.inner(images)


class _ImagesAndClasses(nn.Module):
    """A graph whose inputs are named `images` and `classes`."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.inner = graph

    def forward(self, images: Tensor, classes: Tensor) -> Any:
        return self.inner(images, classes)


_NAMED: dict[int, type[nn.Module]] = {1: _Images, 2: _ImagesAndClasses}


def _fake(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    """A tensor without values, whose batch has any size."""
    # DUCK: equal sizes have one symbol, so that all inputs have the same batch.
    sizes = [DimDynamic.DUCK, *[DimDynamic.STATIC] * (tensor.ndim - 1)]
    context: Any = StatelessSymbolicContext(dynamic_sizes=sizes)
    return mode.from_tensor(tensor, static_shapes=False, symbolic_context=context)


def _table() -> dict[Any, Any]:
    """Backward operators in terms of others, which ONNX has. The rest stays whole."""
    table = {
        operator: rule
        for operator, rule in core_aten_decompositions().items()  # type: ignore[no-untyped-call]
        if "backward" in str(operator)
    }
    return {
        **table,
        aten.convolution_backward.default: _convolution_backward,
        aten.avg_pool2d_backward.default: _avg_pool2d_backward,
        aten.max_pool2d_with_indices_backward.default: _max_pool2d_backward,
    }


def _convolution_backward(
    grad: Tensor,
    inputs: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    mask: list[bool],
) -> Any:
    """The gradient by the inputs of a convolution is a transposed convolution."""
    if transposed or mask[1] or mask[2]:
        return NotImplemented
    extra = [
        inputs.shape[2 + i]
        - ((grad.shape[2 + i] - 1) * s - 2 * p + d * (weight.shape[2 + i] - 1) + 1)
        for i, (s, p, d) in enumerate(zip(stride, padding, dilation, strict=True))
    ]
    arguments = (stride, padding, dilation, True, extra, groups)
    return aten.convolution.default(grad, weight, None, *arguments), None, None


def _avg_pool2d_backward(
    grad: Tensor,
    inputs: Tensor,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Tensor:
    """Each gradient, divided by the number of averaged pixels, goes to all of these pixels."""
    kernel, stride, padding = (list(each) for each in (kernel, stride or kernel, padding))
    kernel, stride, padding = (each * (2 // len(each)) for each in (kernel, stride, padding))
    counts, sizes = [], []
    for i in (0, 1):
        size, k, s, p = inputs.shape[2 + i], kernel[i], stride[i], padding[i]
        starts = [row * s - p for row in range(grad.shape[2 + i])]
        low, high = (-p, size + p) if count_include_pad else (0, size)
        counts.append([min(start + k, high) - max(start, low) for start in starts])
        sizes.append((size, starts[-1] + k))
    if divisor is None:
        rows, columns = (grad.new_tensor(each) for each in counts)
        grad = grad / (rows[:, None] * columns)
    else:
        grad = grad / divisor
    channels = grad.shape[1]
    ones = grad.new_ones(channels, 1, *kernel)
    arguments = (stride, [0, 0], [1, 1], True, [0, 0], channels)
    large = aten.convolution.default(grad, ones, None, *arguments)
    edges = [(-p, size - end) for (size, end), p in zip(sizes, padding, strict=True)]
    (top, bottom), (left, right) = edges
    padded: Tensor = aten.constant_pad_nd.default(large, [left, right, top, bottom])
    return padded


def _max_pool2d_backward(
    grad: Tensor,
    inputs: Tensor,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Each gradient goes to the largest of its pixels."""
    blank = torch.zeros_like(inputs).flatten(2)
    return blank.scatter_add(2, indices.flatten(2), grad.flatten(2)).view_as(inputs)


def _share_constants(graph: fx.GraphModule) -> None:
    """Lets all uses of one tensor read it from one place."""
    first: dict[int, fx.Node] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr" and isinstance(value := getattr(graph, str(node.target)), Tensor):
            other = first.setdefault(id(value), node)
            if other is not node:
                node.replace_all_uses_with(other)
                graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()


def _share(program: ExportedProgram) -> None:
    """Computes once what a graph of pure operators computes twice, such as a forward pass."""
    graph = program.graph
    first: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or torch.Tag.nondeterministic_seeded in getattr(
            node.target, "tags", ()
        ):
            continue
        key = repr((str(node.target), node.args, sorted(node.kwargs.items())))
        other = first.setdefault(key, node)
        if other is not node:
            node.replace_all_uses_with(other)
            program.graph_signature.replace_all_uses(node.name, other.name)
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
