"""Removal of patches from a vision transformer, by a mask of its attention."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from explainers.explanandum import Explanandum, attention, features, layouts
from explainers.explanandum.features import NotDefinedError


@contextmanager
def kept_tokens(explanandum: Explanandum, kept: Tensor) -> Iterator[None]:
    """Inside the `with` block, no token attends to patches that are not kept.

    The class and register tokens stay. The logits then do not depend on the pixels of the other
    patches, whatever they show. Which classifiers this holds for, `token_grid` tells.

    Source: Covert et al., "Learning to Estimate Shapley Values with Vision Transformers", ICLR
    2023, section 4: attention is masked before the softmax.

    Args:
        explanandum: The classifier.
        kept: Patches (B, N) bool that are kept, row by row, for each image of the pass.
    """
    prefix = attention.of(explanandum).prefix
    attended = torch.cat([kept.new_ones(len(kept), prefix), kept], dim=1)
    mask = attended[:, None, None, :].expand(-1, 1, attended.shape[1], -1)

    def add(_: Any, inputs: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return inputs, {**options, "attn_mask": mask}

    hook = explanandum.model.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@torch.inference_mode(False)
def token_grid(explanandum: Explanandum) -> tuple[int, int]:
    """Rows and columns of the patches of a classifier from which patches can be removed.

    They can be removed from the plain vision transformers of timm whose `forward` takes an
    `attn_mask`, if the class token alone is read. A trial pass makes sure that the logits do not
    depend on patches that are removed.

    Raises:
        NotDefinedError: If patches cannot be removed from the classifier.
    """
    name = type(explanandum.model).__name__
    refusal = (
        f"fill: tokens removes patches by the attn_mask of timm's vision transformers, but {name} "
    )
    if "attn_mask" not in inspect.signature(explanandum.model.forward).parameters:
        raise NotDefinedError(f"{refusal}takes none: choose another fill, such as mean")
    layers = attention.of(explanandum)
    if layers.read[1] is None:
        raise NotDefinedError(
            f"{refusal}reads its logits from the patches, not from a class token: "
            "choose another fill, such as mean"
        )
    grid = layouts.of(explanandum, features.stages(explanandum)[-1]).grid
    size = (explanandum.input_size[0], explanandum.input_size[1])
    images = layouts.trial_images(size)[:2].to(explanandum.mean.device)  # the lower half is equal
    kept = torch.zeros(grid, dtype=torch.bool, device=images.device)
    kept[-(-grid[0] // 2) :] = True
    with layouts.trying(explanandum), kept_tokens(explanandum, kept.flatten().expand(2, -1)):
        first, second = explanandum(images)
    if (first - second).norm() > 1e-3 * first.norm():
        raise NotDefinedError(f"{refusal}still sees patches that are masked: choose another fill")
    return grid
