"""Whether maps of an ImageNet classifier lie on the objects of photographs of VOC.

Its classes are not those of VOC: the predicted class is explained, and the object mask is that of
all labeled objects together. Images without any mask are left out.

python benchmarks/objects.py data/VOC2012 runs/photos/last.ckpt
"""

import argparse
import sys
from pathlib import Path

import torch
from scipy.stats import wilcoxon
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from datamodules.voc import VOC
from explainers.checkpoint import load
from explainers.methods.cam import GradCAM, PyramidCAM
from explainers.methods.constant import CentredGaussian
from explainers.methods.lattice import Lattice


def iou(maps: Tensor, mask: Tensor) -> Tensor:
    """IoU (B,) of objects (B, H, W) with as many of the highest pixels of each map."""
    flat, objects = maps.flatten(1), mask.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    found = objects.gather(1, order)
    area = objects.sum(dim=1, keepdim=True)
    hits = (found & (torch.arange(flat.shape[1]) < area)).sum(dim=1)
    return hits / (2 * area[:, 0] - hits)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root")
    parser.add_argument("checkpoint")
    parser.add_argument("--set", help="file of ImageSets/Segmentation; the test set if not given")
    parser.add_argument("--size", type=int, default=128, help="height and width of the images")
    options = parser.parse_args()
    data = VOC(
        options.root,
        test_set=options.set,
        image_sets="Segmentation",
        image_size=[options.size] * 2,
        resize="crop",
        interpolation="bicubic",
        batch_size=20,
        num_workers=0,
        void_as="background",
    )
    explainer = load(options.checkpoint)
    subject = explainer.explanandum
    rows = {
        "trained": explainer,
        "pyramid_cam": PyramidCAM(subject),
        "lattice": Lattice(subject),
        "grad_cam": GradCAM(subject),
        "centred_gaussian": CentredGaussian(subject),
    }
    scores: dict[str, list[Tensor]] = {name: [] for name in rows}
    data.prepare_data()
    data.setup("test")
    for batch in data.test_dataloader():
        images, mask = batch["image"], batch["mask"].any(dim=1)
        some = mask.flatten(1).any(dim=1)
        images, mask = images[some], mask[some]
        targets = subject.predict(images)
        for name, method in rows.items():
            with torch.no_grad():
                scores[name].append(iou(method.attribute(images, targets), mask))
    values = {name: torch.cat(each) for name, each in scores.items()}
    for name, each in values.items():
        gain = values["trained"] - each
        p = wilcoxon(gain).pvalue if name != "trained" else 1.0
        print(f"{name}: IoU {each.mean():.3f}, trained less this {gain.mean():+.3f} (p {p:.2g})")
    print(f"{len(gain)} images")
