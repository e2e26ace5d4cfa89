"""Deep integrated explanations: a layer's features times gradients, integrated along a path."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.base import Explainer
from explainers.explanandum import Explanandum, attention, features, layouts
from explainers.explanandum.attention import AttentionLayers
from explainers.explanandum.features import NotDefinedError
from explainers.explanandum.gradients import checked_layer
from explainers.explanandum.taps import replaced

INTERVALS = 5  # of the released code's path
STRIDE = 16


class DIX(Explainer):
    """Features of a layer times their gradients, integrated along a path from a baseline.

    With y the logit of the class, vision transformers are explained by their attention. For each of
    the last `blocks`, the attention A of this block is replaced by a * A, with a from 0 to 1, and
    the network runs on. For all layers l, C_l is the positive part of the attention of layer l
    times its gradient, averaged over the path and the heads. For the replaced block, this is A
    itself times the gradient at a * A. The map is the row of the class token of the product of all
    C_l + I, with rows divided by their sums, as in attention rollout, at the columns of the
    patches. The maps of all `blocks` are added. For classifiers without a class token, see
    `AttentionLayers.rollout`.

    Other classifiers, such as CNNs, are explained by the features A of one layer. The baseline A0
    is the minimum of each channel over its positions. The map is the sum over the channels of the
    positive part of (A - A0) times the gradient at A0 + a (A - A0), averaged over the path. It is
    upsampled bilinearly.

    Source: Barkan et al., "Deep Integrated Explanations", CIKM 2023, and the released code.

    Differences from the released code, unless `form` is "released":
        - Vision transformers: in the run for the last block but one, the released code puts the
          attention of the last block, times a, into it. Its path has six points, 0 to 1, and the
          attention of the replaced block counts as a * A. Here the path has `steps` points, at the
          middle of equal intervals.
        - CNNs: the released code takes the minimum over a batch of one image, which is A itself.
          The path is then a point, and the map is five times the sum of the positive parts of A
          times its gradient, upsampled bicubically.
        - The released code scales maps to [0, 1]. Here they are never scaled.

    Cost for each image: n forward passes, and n backward passes for each class. n is `steps` for
    CNNs, and `steps` times `blocks` for vision transformers. In the released form it is 1 for CNNs,
    and for vision transformers 6 times `blocks`, with one more forward pass if `blocks` exceeds 1.

    Args:
        explanandum: The classifier to explain.
        form: "sound" as above, or "released", which computes what the authors' code does.
        steps: Number of points of the path. It is not used by the released form.
        blocks: Number of blocks of a vision transformer whose maps are added, from the last.
            SLOC's comparison uses 1, the released code 2.
        layer: Name of the layer of a CNN. None selects the last stage of stride 16, as in SLOC's
            comparison (layer3 of a ResNet), or else `default_layer`. If it is given for a vision
            transformer, the features of the layer are explained as those of a CNN.
        seed: Not used; every method accepts it.

    Raises:
        ValueError: If there is no such layer or it gives no maps, a choice is unknown, or a number
            is not positive.
        NotDefinedError: If the attention of the classifier cannot be read, no layer is given, and
            no default is found.
    """

    needs_gradients = True

    def __init__(
        self,
        explanandum: Explanandum,
        form: Literal["sound", "released"] = "sound",
        steps: int = 10,
        blocks: int = 2,
        layer: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        if min(steps, blocks) < 1:
            raise ValueError(f"steps and blocks must be positive, got {steps} and {blocks}")
        self.form, self.blocks = form, blocks
        self.points = [(i + 0.5) / steps for i in range(steps)]
        self.layers: AttentionLayers | None = None
        self.layer = ""
        if layer is None:
            try:
                self.layers = attention.of(explanandum)
            except NotDefinedError:
                self.layer = _default_layer(explanandum)
        else:
            self.layer = checked_layer(explanandum, layer)

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W), >= 0 but for the overshoot of bicubic upsampling."""
        return self.merged_map(images, targets)

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of several classes for each image, from the same forward passes."""
        if self.layers is None:
            return self._from_features(images, classes)
        own = list[Tensor]()
        if self.form == "released" and self.blocks > 1:
            with torch.no_grad(), attention.tapped(self.explanandum.model, self.layers.names) as t:
                self.explanandum(images)
            own = [t[self.layers.names[-1]]]
        last = self.layers.names[: -self.blocks - 1 : -1]
        maps = [self._from_attention(self.layers, images, classes, name, *own) for name in last]
        return torch.stack(maps).sum(dim=0)

    def _from_attention(
        self,
        layers: AttentionLayers,
        images: Tensor,
        classes: Tensor,
        block: str,
        source: Tensor | None = None,
    ) -> Tensor:
        """Maps (B, k, H, W) of the path of one block's attention.

        Args:
            layers: The attention of the classifier.
            images: Images (B, 3, H, W).
            classes: Classes (B, k).
            block: Name of the attention that is replaced.
            source: What replaces it, times a. None takes its own matrix.
        """
        names, released = layers.names, self.form == "released"
        points = [i / INTERVALS for i in range(INTERVALS + 1)] if released else self.points
        sums: dict[tuple[int, str], Tensor] = {}
        for a in points:
            clean = list[Tensor]()

            def scale(name: str, matrix: Tensor, a: float = a, to: list[Tensor] = clean) -> Tensor:
                if name != block:
                    return matrix
                to.append(matrix)
                return a * (matrix if source is None else source)

            with attention.tapped(self.explanandum.model, names, scale) as taps:
                logits = self.explanandum(images)
            for k, column in enumerate(classes.unbind(1)):
                score = logits.gather(1, column[:, None]).sum()
                slopes = torch.autograd.grad(score, list(taps.values()), retain_graph=True)
                for (name, value), slope in zip(taps.items(), slopes, strict=True):
                    whole = value if name != block or released else clean[0]
                    product = attention.detached(whole) * attention.detached(slope)
                    part = product.relu().mean(dim=1) / len(points)
                    sums[k, name] = sums.get((k, name), 0) + part
        return torch.stack(
            [
                layers.rollout([sums[k, name] for name in names], True, images.shape[-2:])
                for k in range(classes.shape[1])
            ],
            dim=1,
        )

    def _from_features(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (B, k, H, W) of the path of a layer's features."""
        layout, released = layouts.of(self.explanandum, self.layer), self.form == "released"
        points = [1.0] if released else self.points
        maps = images.new_zeros(0)
        for a in points:
            seen: dict[str, Tensor] = {}

            def change(output: Tensor, a: float = a, to: dict[str, Tensor] = seen) -> Tensor:
                start = torch.zeros_like(output) if released else _least(output, layout)
                to["range"] = (output - start).detach()
                to["point"] = (start + a * to["range"]).detach().requires_grad_()
                return to["point"].clone()  # the network may modify it in place

            with replaced(self.explanandum.model, self.layer, change):
                logits = self.explanandum(images)
            ranges = layout.to_maps(attention.detached(seen["range"]), images.shape)
            found = []
            for column in classes.unbind(1):
                score = logits.gather(1, column[:, None]).sum()
                slope = torch.autograd.grad(score, seen["point"], retain_graph=True)[0]
                slopes = layout.to_maps(attention.detached(slope), images.shape)
                found.append((ranges * slopes).relu().sum(dim=1))
            part = torch.stack(found, dim=1) / len(points)
            maps = maps + part if len(maps) else part
        maps = INTERVALS * maps if released else maps
        mode = "bicubic" if released else "bilinear"
        return F.interpolate(maps, size=images.shape[-2:], mode=mode)


def _least(output: Tensor, layout: layouts.Layout) -> Tensor:
    """The minimum of each channel over the positions, in the shape of a layer's output.

    Tokens that have no position in the image stay as they are.
    """
    if layout.kind == "tokens":
        tokens = output[:, layout.prefix :]
        least = tokens.amin(dim=1, keepdim=True).expand_as(tokens)
        return torch.cat([output[:, : layout.prefix], least], dim=1)
    dims = (2, 3) if layout.kind == "maps" else (1, 2)
    return output.amin(dim=dims, keepdim=True).expand_as(output)


def _default_layer(explanandum: Explanandum) -> str:
    """The last stage whose stride is 16, or the default of other methods if there is none."""
    try:
        names = features.stages(explanandum)
    except NotDefinedError:
        return checked_layer(explanandum, None)
    height = explanandum.input_size[0]
    fine = [n for n in names if height <= STRIDE * layouts.of(explanandum, n).grid[0]]
    return checked_layer(explanandum, fine[-1] if fine else None)
