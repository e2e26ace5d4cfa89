"""Transformer attribution: relevance of the attention, times its gradients."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from explainers.base import Explainer
from explainers.explanandum import Explanandum, attention
from explainers.explanandum.attention import AttentionLayers
from explainers.explanandum.features import NotDefinedError

Trace = dict[str, tuple[Tensor, Tensor]]
# The only parts of a block for which the paper has rules: type of each, by its name.
PARTS = {
    "": "timm.models.vision_transformer.Block",
    "attn": "timm.layers.attention.Attention",
    "mlp": "timm.layers.mlp.Mlp",
}
EMPTY = ("attn.q_norm", "attn.k_norm", "attn.norm", "mlp.norm")


class TAttr(Explainer):
    """Relevance of the attention times its gradients, from the class token to the patches.

    Layer-wise relevance propagation starts with 1 at the logit of the class and passes backward
    through the network: through linear layers by the rule for alpha 1 and beta 0, without biases;
    through products of two tensors in equal halves; through sums in proportion to both terms.
    Norms, activations and layer scales pass it on unchanged. With R_l the relevance that reaches
    the attention A_l of layer l, and y the logit of the class, C_l is the positive part of
    R_l * dy/dA_l, averaged over the heads. The map is the row of the class token of
    (C_L + I) ... (C_s + I), at the columns of the patches. It is upsampled bilinearly.

    Attention times its gradients, without relevance, is another method that some repositories call
    by this name.

    Source: Chefer et al., "Transformer Interpretability Beyond Attention Visualization", CVPR 2021,
    eq. 4 to 14, and the released code.

    Differences from the released code:
        - The sums that balance the two terms of a residual connection are those of each image. In
          the released code they run over the batch, so that maps depend on other images.
        - In a distilled DeiT, the logits are the mean of two heads. The relevance is divided
          between them as between the terms of a sum, and the map is the mean of the rows of the
          class and the distillation token. The authors explain no such network.

    Cost for each image: one forward pass, and for each class one backward pass and the rules, which
    take about as long as five forward passes.

    Args:
        explanandum: The classifier to explain, a ViT of timm that classifies by its class token:
            blocks with layer norms before attention and MLP (ViT, DeiT, DINOv2, CLIP).
        start_layer: Index s of the first layer whose attention is followed, from 0. The default is
            that of the authors' visualizations and of SLOC's comparison; that of their function
            is 0.
        seed: Not used; every method accepts it.

    Raises:
        NotDefinedError: If the paper has no rule for a part of the classifier, such as a gated MLP
            (EVA-02), rotary positions (DINOv3), position biases (BEiT) or attention pooling
            (SigLIP).
        ValueError: If there is no such layer.
    """

    needs_gradients = True

    def __init__(self, explanandum: Explanandum, start_layer: int = 1, seed: int = 0) -> None:
        super().__init__(explanandum, seed)
        self.layers = attention.of(explanandum)
        self.heads = _checked(explanandum.model, self.layers)
        depth = len(self.layers.names)
        if not 0 <= start_layer < depth:
            raise ValueError(f"start_layer must lie in [0, {depth - 1}], got {start_layer}")
        self.start_layer = start_layer

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) >= 0."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from one forward pass."""
        model, followed = self.explanandum.model, range(self.start_layer, len(self.layers.names))
        ends = ("", ".attn.qkv", ".attn.proj", ".ls1", ".norm2", ".mlp.fc1", ".mlp.fc2", ".ls2")
        parts = [f"blocks.{i}{end}" for i in followed for end in ends]
        with (
            attention.tapped(model, self.layers.names) as taps,
            attention.traced(model, [*parts, *self.heads]) as trace,
        ):
            logits = self.explanandum(images)
        values, maps = [taps[self.layers.names[i]] for i in followed], []
        for column in classes.unbind(1):
            score = logits.gather(1, column[:, None]).sum()
            slopes = torch.autograd.grad(score, values, retain_graph=True)
            relevance = self._at_the_tokens(trace, column)
            matrices = list[Tensor]()
            for i, value, slope in reversed(list(zip(followed, values, slopes, strict=True))):
                block: Any = model.get_submodule(f"blocks.{i}")
                matrix = attention.detached(value)
                relevance, part = _through(block, f"blocks.{i}", trace, matrix, relevance)
                matrices.append((part * attention.detached(slope)).relu().mean(dim=1))
            maps.append(self.layers.rollout(matrices[::-1], False, images.shape[-2:]))
        return torch.stack(maps, dim=1)

    def _at_the_tokens(self, trace: Trace, column: Tensor) -> Tensor:
        """Relevance (B, N, d) of the last block's output for the logits of a class (B,)."""
        outputs = [trace[name][1] for name in self.heads]
        units = self.explanandum.classes or list(range(self.explanandum.head_classes))
        chosen = torch.tensor(units, device=column.device)[column, None]
        if self.explanandum.head_classes > outputs[0].shape[1]:  # one output z, as logits [0, z]
            chosen = chosen - 1
        start = torch.arange(outputs[0].shape[1], device=column.device) == chosen
        shares = [start.to(outputs[0])]
        if len(outputs) > 1:
            shares = list(_through_sum(outputs[0], outputs[1], shares[0]))
        found = torch.zeros_like(trace[f"blocks.{len(self.layers.names) - 1}"][1])
        for i, (name, share) in enumerate(zip(self.heads, shares, strict=True)):
            head: Any = self.explanandum.model.get_submodule(name)
            found[:, i] = _through_linear(head, trace[name][0], share)
        return found


def _through(
    block: Any, name: str, trace: Trace, matrix: Tensor, relevance: Tensor
) -> tuple[Tensor, Tensor]:
    """Relevance (B, N, d) of a block's input, and (B, heads, N, N) of its attention."""
    middle, branch = trace[f"{name}.norm2"][0], trace[f"{name}.ls2"][1]
    past, rest = _through_sum(middle, branch, relevance)
    rest = _through_linear(block.mlp.fc2, trace[f"{name}.mlp.fc2"][0], rest)
    relevance = past + _through_linear(block.mlp.fc1, trace[f"{name}.mlp.fc1"][0], rest)

    past, rest = _through_sum(trace[name][0], trace[f"{name}.ls1"][1], relevance)
    mixed, (tokens, packed) = trace[f"{name}.attn.proj"][0], trace[f"{name}.attn.qkv"]
    rest = _through_linear(block.attn.proj, mixed, rest)
    shape = (*mixed.shape[:2], matrix.shape[1], -1)
    queries, keys, values = (
        x.reshape(shape).transpose(1, 2) for x in packed.chunk(3, dim=2)
    )  # (B, heads, N, d)
    ratio = _ratio(*(x.reshape(shape).transpose(1, 2) for x in (rest, mixed)))
    part = matrix * (ratio @ values.mT) / 2
    of_values = values * (matrix.mT @ ratio) / 2
    ratio = _ratio(part, queries @ keys.mT)
    of_queries, of_keys = queries * (ratio @ keys) / 2, keys * (ratio.mT @ queries) / 2
    stacked = torch.stack([of_queries, of_keys, of_values]).permute(1, 3, 0, 2, 4).flatten(2)
    return past + _through_linear(block.attn.qkv, tokens, stacked), part


def _through_linear(layer: nn.Linear, inputs: Tensor, relevance: Tensor) -> Tensor:
    """Relevance (..., d) of a linear layer's inputs, from that of its outputs."""
    weight = attention.detached(layer.weight)
    (up, down), (high, low) = ((x.clamp(min=0), x.clamp(max=0)) for x in (weight, inputs))
    ratio = _ratio(relevance, F.linear(high, up) + F.linear(low, down))
    return high * (ratio @ up) + low * (ratio @ down)


def _through_sum(first: Tensor, second: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance of both terms of a sum, each scaled to a share of the image's total.

    The shares of an image are in proportion to the sizes of the total relevance of each term.
    """
    ratio = _ratio(relevance, first + second)
    parts = first * ratio, second * ratio
    dims = tuple(range(1, relevance.ndim))
    total, *sums = (x.sum(dim=dims, keepdim=True) for x in (relevance, *parts))
    sizes = sums[0].abs() + sums[1].abs()
    one, two = (
        part * _ratio(_ratio(each.abs(), sizes) * total, each)
        for part, each in zip(parts, sums, strict=True)
    )
    return one, two


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """The quotient, 0 where the denominator is 0, which is shifted by 1e-9 as in the code."""
    shifted = below + 1e-9
    return above / shifted.where(shifted != 0, 1e-9) * (below != 0)


def _checked(model: Any, layers: AttentionLayers) -> list[str]:
    """Names of the heads of a network for all of whose parts there are rules."""
    heads, reason = ["head", "head_dist"][: layers.read[1] or 0], ""
    if layers.read[0] != 0 or layers.read[1] not in (1, 2):
        reason = "the logits are not computed from the class token alone"
    elif any(not isinstance(getattr(model, name, None), nn.Linear) for name in heads):
        reason = f"{' and '.join(heads)} is not a linear layer"
    elif layers.names != [f"blocks.{i}.attn" for i in range(len(layers.names))]:
        reason = "it has no blocks of timm"
    else:
        for i, block in enumerate(model.blocks):
            reason = reason or _unknown(block, f"blocks.{i}")
    if reason:
        raise NotDefinedError(
            f"T-Attr has rules only for ViTs of timm that classify by their class token, with a "
            f"norm before attention and MLP: in {type(model).__name__}, {reason}"
        )
    return heads


def _unknown(block: nn.Module, name: str) -> str:
    """The first part of a block for which there is no rule, as a sentence, or nothing."""
    for part, expected in PARTS.items():
        kind = type(block.get_submodule(part))
        found = f"{kind.__module__}.{kind.__qualname__}"
        if found != expected:
            return f"{name}{'.' * bool(part)}{part} is a {found}"
    for part in EMPTY:
        if not isinstance(block.get_submodule(part), nn.Identity):
            return f"{name}.{part} is a norm within the branch"
    gated = getattr(block.get_submodule("attn"), "gate", None) is not None
    return f"{name}.attn is gated" if gated else ""
