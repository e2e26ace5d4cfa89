"""ShapleyExplainer: a network that predicts the Shapley values of the cells of a grid."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.explanandum import Explanandum
from explainers.functional import content, masking
from explainers.functional.fills import FillChoice
from explainers.functional.regions import cell_numbers
from explainers.learned import LearnedExplainer
from explainers.networks.cells import CellOptions, cell_network
from explainers.optimization import representation
from explainers.optimizers import ADAM, OptimizerOptions
from explainers.perturbation.tokens import kept_tokens, token_grid

NETWORK: CellOptions = {"width": 64, "depth": 2}


class ShapleyExplainer(LearnedExplainer):
    """Gives each pixel the predicted Shapley value of its cell, from one look at the image.

    The players are the d cells of a square grid. The value v(S) of a coalition S is the response of
    the classifier if only the cells of S are shown. A network on the features of the classifier
    predicts the values phi of all cells and classes. The loss is

        d E[(v(0) + sum_{i in S} phi_i - v(S))^2],

    where the size k of S has a probability in proportion to 1 / (k (d - k)), and each S comes with
    its complement. The same amount is added to all predicted values, in the training as well, so
    that they sum to v(all) - v(0), as Shapley values do. Of all such values, the exact Shapley
    values have the smallest loss, so that they need not be known for the training. Labels are not
    used.

    The training does not tell how far the predictions are from the exact values, because the loss
    is not 0 there. For the response "probability", `kernel_shap.KernelSHAP` with the same grid and
    fill does, on a few images.

    Source: Jethani et al., "FastSHAP: Real-Time Shapley Value Estimation", ICLR 2022, eq. 5, and
    Covert et al., "Learning to Estimate Shapley Values with Vision Transformers", ICLR 2023, which
    removes patches by a mask of the attention. The code of the latter has no license and none of it
    is used here.

    Differences from the released code:
        - The values are those of the classifier itself. The papers first train a copy of it, the
          surrogate, on images with missing cells. To explain such a copy, give it as the
          explanandum.
        - The network is `cells.CellNetwork` on the features of the frozen classifier. FastSHAP
          trains a U-Net, and ViT-Shapley a copy of the surrogate.
        - The sum of the values is always exact. FastSHAP penalizes the difference instead.
        - ViT-Shapley applies a tanh to the predicted values before it adds the rest.

    Cost for each image, whatever the number of classes: one forward pass of the classifier, and
    another one of the empty image, which is once for all images of a call unless the fill is a
    blur. A step of the training takes `samples` more for each image.

    Args:
        explanandum: The frozen classifier to explain. Its stages must be known.
        grid: Number of rows and of columns of cells. Published: 14 for ViT-Shapley, 16 for
            FastSHAP.
        samples: Number of coalitions for each image and step, an even number. Published: 32 for
            ViT-Shapley, 2 for FastSHAP.
        response: Response of a class: its "probability", as in ViT-Shapley, or its
            "log_probability", as in FastSHAP.
        classes: "all": any class can be explained, and the loss is a mean over all of them.
            "predicted": only the predicted class, which is faster to learn if there are many.
        fill: Content of the cells that are not shown, see `fills.fill`, or "tokens": the patches of
            a vision transformer are removed, see `tokens.kept_tokens`.
        network: Options of the network, see `networks.cells.CellNetwork`.
        optimizer: Options of the training, see `optimizers.OptimizerOptions`.
        seed: Seed of the method's randomness.

    Raises:
        ValueError: If an argument or option is out of range or unknown.
        NotDefinedError: If the stages of the classifier are not known, or if its patches cannot be
            removed and the fill is "tokens".
    """

    is_signed = True
    uses_targets = False
    quick: ClassVar[dict[str, Any]] = {"grid": 4, "network": {"width": 32}}
    optimizer_defaults: ClassVar[OptimizerOptions] = {
        **ADAM,
        "weight_decay": 1e-5,
        "schedule": "cosine",
    }

    def __init__(
        self,
        explanandum: Explanandum,
        grid: int = 7,
        samples: int = 4,
        response: Literal["probability", "log_probability"] = "probability",
        classes: Literal["all", "predicted"] = "all",
        fill: FillChoice | Literal["tokens"] = "mean",
        network: CellOptions | None = None,
        optimizer: OptimizerOptions | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, optimizer, seed)
        if grid < 2 or samples < 2 or samples % 2:
            raise ValueError(
                f"expected a grid of at least 2 and an even number of samples, got {grid} and "
                f"{samples}"
            )
        self.grid, self.samples, self.players = grid, samples, grid * grid
        self.response, self.classes, self.fill = response, classes, fill
        self.patches = (0, 0)  # rows and columns, if patches are removed
        if fill == "tokens":
            self.patches = token_grid(explanandum)
            if any(side % grid for side in self.patches):
                raise ValueError(
                    f"the classifier has {self.patches[0]} x {self.patches[1]} patches: choose a "
                    f"grid that divides both, got {grid}"
                )
        self.class_specific = classes == "all"
        outputs = explanandum.num_classes if classes == "all" else 1
        self.network = cell_network(explanandum, grid, outputs, self.complete("network", NETWORK))
        self.warned = False

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Signed maps (B, H, W), constant within each cell."""
        if self.class_specific:
            return self.merged_map(images, targets)
        values, logits = self.shapley_values(images)
        if not self.warned:
            name = type(self).__name__
            self.warned = representation.asks_for_another_class(name, logits, targets)
        return self.to_pixels(values, images)[:, 0]

    def class_maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Signed maps (B, k, H, W) of several classes for each image, from one pass."""
        if not self.class_specific:
            return super().class_maps(images, classes)
        values, _ = self.shapley_values(images)
        chosen = values.gather(1, classes[:, :, None].expand(-1, -1, self.players))
        return self.to_pixels(chosen, images)

    def shapley_values(self, images: Tensor, empty: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Predicted Shapley values (B, C, d) of d cells, and the logits (B, K).

        C is the number K of classes, or 1 if only the predicted class is explained.

        Args:
            images: Images (B, 3, H, W) in [0, 1].
            empty: The result of `empty` for these images, if it is known.
        """
        with torch.no_grad():
            features, logits = self.explanandum.features_and_logits(images)
            change = self.to_responses(logits) - (self.empty(images) if empty is None else empty)
        if not self.class_specific:
            change = change.gather(1, logits.argmax(dim=1, keepdim=True))
        found = self.network(features) / self.players**0.5
        rest = change - found.sum(dim=2)
        return found + rest[:, :, None] / self.players, logits

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """`shapley`: d times the mean squared error of the responses of random coalitions."""
        images = batch["image"]
        kept = paired_coalitions(len(images), self.samples // 2, self.players, generator)
        kept = kept.to(images.device)
        with torch.no_grad():
            empty = self.empty(images)
            responses = self.responses(images, kept) - empty[:, None]
        values, logits = self.shapley_values(images, empty)
        if not self.class_specific:
            chosen = logits.argmax(dim=1)[:, None, None].expand(-1, self.samples, 1)
            responses = responses.gather(2, chosen)
        with torch.autocast(images.device.type, enabled=False):
            sums = kept.to(values.dtype) @ values.mT  # (B, n, C)
        return {"shapley": self.players * (sums - responses).square().mean()}

    def to_responses(self, logits: Tensor) -> Tensor:
        """Responses (N, K) of logits (N, K)."""
        if self.response == "probability":
            return self.explanandum.to_probabilities(logits)
        return F.logsigmoid(logits) if self.explanandum.multi_label else logits.log_softmax(dim=1)

    def empty(self, images: Tensor) -> Tensor:
        """Responses (B, K) without any cell, or (1, K) if they are the same for all images."""
        if self.fill not in ("kernel_blur", "blur"):
            images = images[:1]
        nothing = torch.zeros(len(images), 1, self.players, device=images.device).bool()
        return self.responses(images, nothing)[:, 0]

    def responses(self, images: Tensor, kept: Tensor) -> Tensor:
        """Responses (B, n, K) if only some cells of images (B, 3, H, W) are shown.

        Args:
            images: Images in [0, 1].
            kept: Cells (B, n, d) bool that are shown, row by row.
        """
        count = kept.shape[1]
        shown, kept = images.repeat_interleave(count, dim=0), kept.flatten(0, 1)
        if self.fill == "tokens":
            rows, columns = self.patches
            patches = kept[:, cell_numbers(rows, columns, self.grid).flatten().to(kept.device)]
            with kept_tokens(self.explanandum, patches):
                logits = self.explanandum(shown)
        else:
            with torch.autocast(images.device.type, enabled=False):
                fill = content.behind(self.explanandum.fill(self.fill, self.seed), images)
            fill = content.repeated(fill, count)
            masks = kept.to(images)[:, self.cells(images)]
            logits = self.explanandum(masking.blend(shown, masks, fill))
        return self.to_responses(logits).view(len(images), count, -1)

    def cells(self, images: Tensor) -> Tensor:
        """The cell of each pixel, (H, W) int64 in 0 to d - 1."""
        height, width = images.shape[-2:]
        if min(height, width) < self.grid:
            raise ValueError(
                f"images of {height} x {width} pixels have no grid of {self.grid} x {self.grid} "
                "cells: take larger images or a smaller grid"
            )
        return cell_numbers(height, width, self.grid).to(images.device)

    def to_pixels(self, values: Tensor, images: Tensor) -> Tensor:
        """Maps (B, C, H, W) of the values (B, C, d) of cells."""
        return values[:, :, self.cells(images)]


def paired_coalitions(images: int, pairs: int, players: int, generator: torch.Generator) -> Tensor:
    """Random coalitions (images, 2 pairs, players) bool, each followed by its complement.

    A coalition of k players has a probability in proportion to the Shapley kernel: the size k to
    1 / (k (d - k)) for d players, and each coalition of this size to the same.

    Args:
        images: Number of images.
        pairs: Number of pairs for each image.
        players: Number d of players, at least 2.
        generator: Random number generator on the CPU.
    """
    sizes = torch.arange(1, players)
    mass = 1 / (sizes * (players - sizes))
    drawn = 1 + torch.multinomial(mass, images * pairs, replacement=True, generator=generator)
    ranks = torch.rand(images * pairs, players, generator=generator).argsort(dim=1)
    kept = ranks < drawn[:, None]
    return torch.stack([kept, ~kept], dim=1).view(images, 2 * pairs, players)
