import torch

from explainers.functional.regions import superpixels


def test_superpixels_are_the_plain_parts_of_an_image_and_are_counted_from_0():
    image = torch.zeros(3, 32, 32)
    for place, color in enumerate(((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0), (1.0, 1.0, 1.0))):
        row, column = 16 * (place // 2), 16 * (place % 2)
        image[:, row : row + 16, column : column + 16] = torch.tensor(color)[:, None, None]
    found = superpixels(image, segments=4)
    assert found.unique().tolist() == [0, 1, 2, 3]
    for region in found.unique():
        assert image[:, found == region].unique(dim=1).shape[1] == 1
    assert len(superpixels(image, segments=60, compactness=100).unique()) > 30
