"""Maps from features of a layer and their gradients, combined position by position."""

from collections.abc import Callable

import torch
from torch import Tensor

from explainers.explanandum import layouts
from explainers.explanandum.frozen import Explanandum
from explainers.explanandum.taps import tapped
from explainers.functional.planes import upsample


@torch.enable_grad()
def layer_maps(
    explanandum: Explanandum,
    layer: str,
    images: Tensor,
    classes: Tensor,
    combine: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Class activation maps (B, k, H, W) >= 0 of classes (B, k), in the size of the images.

    Negative values are set to 0 before the maps are upsampled bilinearly.

    Args:
        explanandum: The classifier.
        layer: Name of the module whose output is combined with its gradients.
        images: Images (B, 3, H, W) in [0, 1].
        classes: Classes to explain, (B, k) int64.
        combine: Function from the features (B, C, h, w) and the gradients of the logit with respect
            to them to maps (B, h, w).
    """
    with tapped(explanandum.model, [layer]) as taps:
        logits = explanandum(images.detach())
    layout = layouts.of(explanandum, layer)
    values = layout.to_maps(taps[layer].detach(), images.shape).float()
    found = []
    for column in classes.unbind(1):
        score = logits.gather(1, column[:, None]).sum()
        (raw,) = torch.autograd.grad(score, taps[layer], retain_graph=True)
        found.append(combine(values, layout.to_maps(raw, images.shape).float()).relu())
    return upsample(torch.stack(found, dim=1), images.shape[-2:])
