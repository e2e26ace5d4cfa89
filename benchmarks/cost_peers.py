"""The work of other libraries that compute the same as a method or metric, if they are installed.

All of them get normalized images, as their users do, and the network itself.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from explainers import Explanandum

Peer = Callable[[Any, Explanandum, Tensor], object]  # of our method, the classifier, images

CAMS = {
    "grad_cam": "GradCAM",
    "grad_cam_plus_plus": "GradCAMPlusPlus",
    "hi_res_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "x_grad_cam": "XGradCAM",
    "score_cam": "ScoreCAM",
}


def peers(name: str) -> dict[str, Peer]:
    """Libraries that do the work of the row of a name, by their names, those that can be imported.

    Args:
        name: Name of a row of `costs.py`.
    """
    found: dict[str, Peer] = {}
    known: dict[str, tuple[str, Peer]] = {
        "saliency": ("captum.attr", _captum_saliency),
        "integrated_gradients": ("captum.attr", _captum_gradients),
        "Complexity": ("quantus", _quantus("Complexity")),
        "Sparseness": ("quantus", _quantus("Sparseness")),
        **{row: ("pytorch_grad_cam", _cam(kind)) for row, kind in CAMS.items()},
    }
    if name in known:
        module, peer = known[name]
        try:
            importlib.import_module(module)
            found[module.split(".")[0]] = peer
        except ImportError:
            pass
    return found


def _classes(images: Tensor) -> Tensor:
    return torch.zeros(len(images), dtype=torch.int64, device=images.device)


def _captum_saliency(ours: Any, explanandum: Explanandum, images: Tensor) -> object:
    from captum import attr

    shown = explanandum.normalize(images).requires_grad_()
    return attr.Saliency(explanandum.model).attribute(shown, target=_classes(images))


def _captum_gradients(ours: Any, explanandum: Explanandum, images: Tensor) -> object:
    from captum import attr

    return attr.IntegratedGradients(explanandum.model).attribute(
        explanandum.normalize(images),
        target=_classes(images),
        n_steps=ours.n_steps,
        internal_batch_size=ours.internal_batch_size,
    )


def _cam(kind: str) -> Peer:
    def run(ours: Any, explanandum: Explanandum, images: Tensor) -> object:
        import pytorch_grad_cam as library
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        layers = [explanandum.model.get_submodule(ours.layer)]
        shown = explanandum.normalize(images).requires_grad_()  # the weights are frozen
        with getattr(library, kind)(model=explanandum.model, target_layers=layers) as cam:
            return cam(input_tensor=shown, targets=[ClassifierOutputTarget(0)] * len(images))

    return run


def _quantus(kind: str) -> Peer:
    def run(ours: Any, explanandum: Explanandum, images: Tensor) -> object:
        import quantus

        metric = getattr(quantus, kind)(disable_warnings=True)
        maps = images.mean(dim=1, keepdim=True).cpu().numpy()
        shown = images.cpu().numpy()
        return metric(explanandum.model, shown, _classes(images).cpu().numpy(), a_batch=maps)

    return run
