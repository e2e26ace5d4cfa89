"""Attention of vision transformers: where it is, a tap for its matrices, and maps made of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainers.explanandum import layouts
from explainers.explanandum.features import NotDefinedError

# timm's self-attention with a plain softmax over all tokens. Each has the flag `fused_attn`, and
# without fusion it passes the softmax to its child `attn_drop`.
KNOWN = {
    "timm.layers.attention.Attention",
    "timm.layers.attention.AttentionRope",
    "timm.models.beit.Attention",
    "timm.models.eva.EvaAttention",
    "timm.models.vision_transformer_relpos.RelPosAttention",
}
Change = Callable[[str, Tensor], Tensor]


class AttentionLayers(NamedTuple):
    """The attention of a vision transformer.

    Attributes:
        names: Names of the modules that attend, in the order in which they run.
        prefix: Number of tokens in front of the patches: class, distillation and register tokens.
        read: First of the tokens from which the logits are computed, and the end of their range.
            It is (0, 1) for a class token, (0, 2) for a class and a distillation token, and
            (prefix, None) if the head averages or attends to the patches.
    """

    names: list[str]
    prefix: int
    read: tuple[int, int | None]

    def rollout(self, matrices: Sequence[Tensor], normalized: bool, size: torch.Size) -> Tensor:
        """Maps (B, *size) of the product of all layers' token-to-token matrices.

        With J = (M_L + I) ... (M_1 + I), the map is the row of J that belongs to the class token,
        at the columns of the patches. It is upsampled bilinearly. If the logits are computed from
        several tokens, it is the mean of their rows: of the class and the distillation token of a
        distilled DeiT, or of all patches if the head averages them or attends to them. The papers
        define only the class token.

        Args:
            matrices: Matrices M_1 to M_L, (B, N, N), of which rows are the tokens that attend.
            normalized: Whether the rows of each M + I are divided by their sums.
            size: Height and width of the images.
        """
        count = matrices[0].shape[-1]
        rows = matrices[0].new_zeros(len(matrices[0]), 1, count)
        start, end = self.read
        rows[..., start:end] = 1 / len(range(count)[start:end])
        for matrix in reversed(matrices):  # from the left, with rows only, instead of the whole J
            if normalized:
                rows = rows / (matrix.sum(dim=2) + 1)[:, None]
            rows = rows + rows @ matrix
        grid = layouts.lay_out(rows[..., self.prefix :].mT, size[0] / size[1])
        return F.interpolate(grid, size=size, mode="bilinear")[:, 0]


def of(explanandum: Any) -> AttentionLayers:
    """The attention of an `Explanandum`, found by a trial pass, which is made once.

    It is known for plain vision transformers, in which each block has one softmax self-attention
    among all tokens: those of timm (ViT, DeiT, DINOv2, CLIP, SigLIP, EVA-02, DINOv3, BEiT) and
    networks with `nn.MultiheadAttention`, such as torchvision's.

    Raises:
        NotDefinedError: If the network is none of these, such as a CNN, Swin, CaiT or XCiT.
    """
    kept = vars(explanandum)
    if "_attention" not in kept:
        kept["_attention"] = _found(explanandum)
    layers: AttentionLayers = kept["_attention"]
    return layers


@contextmanager
def tapped(
    model: nn.Module, names: Sequence[str], change: Change | None = None
) -> Iterator[dict[str, Tensor]]:
    """Records attention matrices (B, heads, N, N) during the `with` block, after the softmax.

    Fused attention, which never stores them, is off inside the block. If gradients are enabled, the
    autograd graph starts at the first of these matrices, as the weights are frozen. No gradient
    reaches the images or the parameters.

    Args:
        model: The network.
        names: Names of its attention modules, see `AttentionLayers`.
        change: Function from the name of a module and its matrix to the matrix to use instead.

    Yields:
        The matrices by name, filled by each forward pass.
    """
    found: dict[str, Tensor] = {}

    def tap(name: str, values: Tensor) -> Tensor:
        values = values if change is None else change(name, values)
        if torch.is_grad_enabled() and not values.requires_grad:
            values = values.detach().requires_grad_()
        found[name] = values
        return values

    with ExitStack() as stack:
        for name in names:
            module: Any = model.get_submodule(name)
            if isinstance(module, nn.MultiheadAttention):
                hook = module.register_forward_hook(_attend(name, tap), with_kwargs=True)
            else:
                stack.callback(setattr, module, "fused_attn", module.fused_attn)
                module.fused_attn = False
                hook = module.attn_drop.register_forward_hook(lambda *a, n=name: tap(n, a[2]))
            stack.callback(hook.remove)
        yield found


def detached(matrix: Tensor) -> Tensor:
    """A matrix without its graph, at least in float32."""
    return matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))


@contextmanager
def traced(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Records the input and the output of modules during the `with` block, without their graphs.

    Yields:
        The pairs by name, at least in float32, filled by each forward pass.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def look(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found[name] = detached(inputs[0]), detached(output)

    with ExitStack() as stack:
        for name in names:
            module = model.get_submodule(name)
            hook = module.register_forward_hook(lambda *a, n=name: look(n, a[1], a[2]))
            stack.callback(hook.remove)
        yield found


def _attend(name: str, tap: Callable[[str, Tensor], Tensor]) -> Callable[..., tuple[Tensor, None]]:
    """A hook that computes the output of `nn.MultiheadAttention` again, with its matrix tapped.

    The matrix that the module itself can return has no part in its output.
    """

    def hook(module: Any, inputs: Any, options: dict[str, Any], _: Any) -> tuple[Tensor, None]:
        sources = [*inputs, *(options[key] for key in ("query", "key", "value") if key in options)]
        masked = len(inputs) > 3 or any(
            options.get(key) is not None for key in ("key_padding_mask", "attn_mask")
        )
        plain = module.in_proj_weight is not None and module.bias_k is None
        if masked or not plain or module.add_zero_attn or any(x is not sources[0] for x in sources):
            raise NotDefinedError(f"{name} is not plain self-attention")
        tokens = sources[0] if module.batch_first else sources[0].transpose(0, 1)
        packed = F.linear(tokens, module.in_proj_weight, module.in_proj_bias)
        parts = packed.reshape(*packed.shape[:2], 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys, values = parts.unbind(0)  # (B, heads, N, d)
        matrix = (queries * module.head_dim**-0.5 @ keys.mT).softmax(dim=-1)
        mixed = (tap(name, matrix) @ values).transpose(1, 2).flatten(2)
        output = module.out_proj(mixed)
        return output if module.batch_first else output.transpose(0, 1), None

    return hook


@torch.inference_mode(False)
@torch.enable_grad()
def _found(explanandum: Any) -> AttentionLayers:
    model, seen = explanandum.model, list[tuple[str, Tensor]]()
    names = _candidates(model)
    if not names:
        raise _refusal(model, "none was found")
    size = (explanandum.input_size[0], explanandum.input_size[1])
    images = layouts.trial_images(size)[:2].to(explanandum.mean.device)

    def note(name: str, values: Tensor) -> Tensor:
        seen.append((name, values.detach()))
        return values

    with layouts.trying(explanandum):
        plain = explanandum(images)
    untrained, explanandum.untrained = explanandum.untrained, False
    try:
        with tapped(model, names, note) as taps:
            logits = explanandum(images)
    except NotDefinedError as error:
        raise _refusal(model, str(error)) from error
    finally:
        explanandum.untrained = untrained
    if [name for name, _ in seen] != list(dict.fromkeys(taps)) or len(seen) < len(names):
        raise _refusal(model, "some do not run exactly once in each pass")
    count = seen[0][1].shape[-1]
    rough = seen[0][1].dtype in (torch.float16, torch.bfloat16)
    slack = 0.05 if rough else 1e-3
    for name, matrix in seen:
        if matrix.ndim != 4 or (len(matrix), *matrix.shape[2:]) != (2, count, count):
            raise _refusal(model, f"{name} has matrices {tuple(matrix.shape)} for 2 images")
        if (matrix.float().sum(dim=-1) - 1).abs().max() > slack:
            raise _refusal(model, f"the rows of {name} do not sum to 1")
    if (logits - plain).norm() > slack * plain.norm():
        raise _refusal(model, "the logits are others without fused attention")
    prefix = _prefix(explanandum, count)
    try:
        layouts.lay_out(images.new_zeros(1, max(count - prefix, 0), 1), size[0] / size[1])
    except ValueError as error:
        raise _refusal(model, str(error)) from error
    last = seen[-1][0]
    weights = torch.arange(1.0, logits.shape[1] + 1, device=logits.device)
    slopes = torch.autograd.grad((logits * weights).sum(), taps[last], allow_unused=True)[0]
    return AttentionLayers([name for name, _ in seen], prefix, _read(slopes, prefix))


def _candidates(model: nn.Module) -> list[str]:
    """Names of the modules with known attention, none if there are others in the blocks."""
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
        or any(f"{kind.__module__}.{kind.__qualname__}" in KNOWN for kind in type(module).__mro__)
    ]
    blocks = getattr(model, "blocks", None)
    if isinstance(blocks, nn.Sequential | nn.ModuleList):
        owners = [name.split(".")[1] for name in names if name.startswith("blocks.")]
        if owners != [str(i) for i in range(len(blocks))] or len(owners) < len(names):
            return []
    return names


def _prefix(explanandum: Any, count: int) -> int:
    """Number of tokens in front of the patches: the network's own, or by the trial of layers."""
    stated = getattr(explanandum.model, "num_prefix_tokens", None)
    if isinstance(stated, int):
        return stated
    for layer in explanandum.layers.values():
        layout = layer.layout
        tokens = layout is not None and layout.kind == "tokens"
        if tokens and layout.prefix + math.prod(layout.grid) == count:
            return int(layout.prefix)
    raise _refusal(explanandum.model, f"the patches are not found among its {count} tokens")


def _read(slopes: Tensor | None, prefix: int) -> tuple[int, int | None]:
    """The range of tokens whose attention, in the last layer, has an effect on the logits."""
    rows = [] if slopes is None else slopes.abs().amax(dim=(0, 1, 3)).nonzero().flatten().tolist()
    if not rows:  # no logit depends on anything, as with a head of zeros
        return (0, 1) if prefix else (0, None)
    first, last = rows[0], rows[-1]
    return (min(first, prefix), None) if last >= prefix else (first, last + 1)


def _refusal(model: nn.Module, reason: str) -> NotDefinedError:
    return NotDefinedError(
        f"{type(model).__name__} has no attention that can be read: expected a plain vision "
        "transformer (ViT, DeiT, DINOv2, DINOv3, EVA-02, BEiT, SigLIP of timm, or torchvision's), "
        f"with one softmax self-attention among all tokens in each block, but {reason}"
    )
