"""Draws docs/figures/stripes.webp, SLOC's toy example: python docs/figures/stripes.py.

A classifier says 0.8 as long as the central stripe of an image is visible. Four masks keep this
stripe: one keeps all, one hides the left, one the right, one both. The map whose sum over each mask
is the response to it has all of its mass on the central stripe. The sum over the whole image
alone, which is all that completeness asks for, does not say where the mass is.

Source: Haddad, Barkan, Elisha and Koenigstein, "Soft Local Completeness: Rethinking Completeness in
XAI", figure of the motivation.
"""

from pathlib import Path

import torch
from torch import Tensor

PICTURE = Path(__file__).with_suffix(".webp")
SIZE, EDGES, RESPONSE = (30, 60), (24, 36), 0.8
NAMES = ("whole image", "left hidden", "right hidden", "both hidden")


def masks() -> Tensor:
    """The four masks (4, H, W), 1 where the image is kept."""
    kept = torch.ones(4, *SIZE)
    kept[1, :, : EDGES[0]] = 0
    kept[2, :, EDGES[1] :] = 0
    kept[3, :, : EDGES[0]] = 0
    kept[3, :, EDGES[1] :] = 0
    return kept


def responses(kept: Tensor) -> Tensor:
    """Probabilities (M,) of the class for masks (M, H, W): 0.8 times what is left of the stripe."""
    return RESPONSE * kept[:, :, EDGES[0] : EDGES[1]].mean(dim=(1, 2))


def smallest_map(kept: Tensor) -> Tensor:
    """The map (H, W) of least norm whose sums over masks (M, H, W) are the responses to them."""
    sums = kept.flatten(1).double()
    values = torch.linalg.pinv(sums) @ responses(kept).double()
    return values.view(SIZE).float()


def draw(path: Path) -> None:
    """Draws the masks, the map of completeness and the map of local completeness."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kept = masks()
    scene = torch.full((*SIZE, 3), 0.72)
    rows, columns = torch.meshgrid(*map(torch.arange, SIZE), indexing="ij")
    disc = (rows - SIZE[0] / 2) ** 2 + (columns - SIZE[1] / 2) ** 2 < 36
    scene[disc] = torch.tensor([0.75, 0.25, 0.2])
    figure = Figure(figsize=(9, 3.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 4)
    for place, name, mask, response in zip(axes[0], NAMES, kept, responses(kept), strict=True):
        place.imshow((scene * mask[..., None]).numpy())
        place.set_title(f"{name}: {response:.1f}", fontsize=10)
    for place in axes[1, (0, 3)]:
        place.remove()
    maps = {"sum right for the whole image": kept[:1], "sums right for all four": kept}
    for place, (words, seen) in zip(axes[1, 1:3], maps.items(), strict=True):
        place.imshow(smallest_map(seen).numpy(), vmin=0, vmax=RESPONSE / 360, cmap="inferno")
        place.set_title(words, fontsize=10)
    for place in figure.axes:
        place.set_axis_off()
    figure.savefig(path, pil_kwargs={"quality": 80})


if __name__ == "__main__":
    draw(PICTURE)
