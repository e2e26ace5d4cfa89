"""Writes docs/pictures/*.webp, a map of each method: python docs/pictures.py [METHOD ...].

The photograph is scikit-image's cat, the classifier the EfficientNet-Lite0 of the extra `photos`,
the class the predicted one. Methods that must be trained have a picture only if `checkpoints/`
holds their training; methods for vision transformers have none.
"""

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run from anywhere, without installing
    sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from PIL import Image

import explainers
from explainers import Explainer, Explanandum, configfiles
from explainers.checkpoint import explainer_class
from explainers.evaluation import drawing
from explainers.explaining.byname import OFFLINE, TRAINED
from explainers.explaining.photofiles import center
from explainers.explanandum.features import NotDefinedError
from explainers.functional.masking import minmax
from explainers.learned import is_trained

FOLDER = Path(__file__).parent / "pictures"
SIZE, QUALITIES, LARGEST = (160, 160), (85, 60, 30, 10), 8_000
CHECKPOINTS = {"evidence_nem": TRAINED}
NOTHING_TO_SEE = {"constant"}
# Fewer passes than the configurations ask for; the pages name them.
CHEAP: dict[str, dict[str, Any]] = {
    "ablation_cam": {"batch_size": 16},
    "extremal": {"areas": [0.1, 0.2], "steps": 120},
    "fido": {"steps": 80},
    "greedy_order": {"grid": 5, "batch_size": 16},
    "gradient_shap": {"samples": 20},
    "igos": {"steps": 8, "ig_steps": 5},
    "guided_ig": {"steps": 40},
    "integrated_gradients": {"n_steps": 20},
    "kernel_shap": {"samples": 400, "batch_size": 16},
    "lime": {"samples": 400, "batch_size": 16},
    "masking_explanation": {"steps": 150},
    "mp": {"steps": 150},
    "rise": {"masks": 500, "batch_size": 16},
    "sliding_patch": {"stride": 12, "batch_size": 16},
    "sloc": {"masks": 400, "patches": {"probability": 0.5}, "batch_size": 8},
}


def photograph() -> torch.Tensor:
    """scikit-image's photograph of a cat, (1, 3, H, W) in [0, 1]."""
    from skimage import data

    pixels = torch.from_numpy(data.chelsea()).permute(2, 0, 1) / 255
    return center(pixels, SIZE)[0][None]


def method(name: str, classifier: Explanandum) -> Explainer | None:
    """A method with settings of a cheap run; None if it has to be trained first."""
    if name in CHECKPOINTS:
        return explainers.load(CHECKPOINTS[name], explanandum=classifier)
    if is_trained(explainer_class(configfiles.method(name)["class_path"])):
        return None
    return explainers.method(name, classifier, **CHEAP.get(name, {}))


def draw(image: torch.Tensor, values: torch.Tensor, signed: bool) -> Image.Image:
    """A map (H, W) in colors over the gray image (3, H, W)."""
    scaled = values / values.abs().max().clamp(min=1e-12) if signed else minmax(values[None])[0]
    return Image.fromarray(drawing.overlay(image, scaled, signed=signed))


def main(names: list[str]) -> None:
    """Writes the pictures of methods, of all if none is named."""
    FOLDER.mkdir(exist_ok=True)
    classifier, images = Explanandum(model=OFFLINE), photograph()
    Image.fromarray(drawing.picture(images[0])).save(
        FOLDER / "photograph.webp", quality=QUALITIES[0]
    )
    with torch.no_grad():
        targets = classifier.predict(images)
    known = sorted(configfiles.named("methods"))
    if unknown := sorted(set(names) - set(known)):
        raise SystemExit(f"no method is called {unknown[0]!r}: names are those of configs/methods")
    for name in names or known:
        try:
            explainer = None if name in NOTHING_TO_SEE else method(name, classifier)
            if explainer is None:
                continue
            maps = explainer.attribute(images, targets)
        except (NotDefinedError, ValueError) as error:
            print(f"{name}: no picture, {error}")
            continue
        file = FOLDER / f"{name}.webp"
        for quality in QUALITIES:
            draw(images[0], maps[0], explainer.is_signed).save(file, quality=quality, method=6)
            if file.stat().st_size < LARGEST:
                break
        print(f"{name}: {file.stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
