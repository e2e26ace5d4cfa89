import torch

from explainers.functional.dither import bayer
from explainers.methods.cam import PyramidCAM
from explainers.methods.lattice import Lattice
from tests import planted


def test_it_adds_the_pattern_to_pyramid_cam():
    explanandum = planted.explanandum()
    images, _ = planted.scenes(3, (20, 27), seed=2)
    classes = torch.tensor([[0, 1], [2, 3], [1, 0]])
    maps = Lattice(explanandum).class_maps(images, classes)
    expected = PyramidCAM(explanandum).class_maps(images, classes) + bayer(20, 27)
    torch.testing.assert_close(maps, expected)
