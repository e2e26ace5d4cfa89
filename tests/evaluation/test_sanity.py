"""The rows that need no classifier, by their values."""

import torch

from explainers.evaluation.sanity import SANITY, sanity_rows
from tests import planted

SIZE = (5, 5)


def test_the_maps_of_all_rows():
    explanandum = planted.explanandum()
    rows = sanity_rows(explanandum)
    assert tuple(rows) == SANITY
    assert all(row.explanandum is explanandum and row.is_mask for row in rows.values())
    images, targets = planted.scenes(2, SIZE)
    masks = planted.quadrant_masks(*SIZE).bool().expand(2, -1, -1, -1)
    maps = {}
    for name, row in rows.items():
        row.observe({"image": images, "mask": masks})
        maps[name] = row.attribute(images, targets)
    for name, value in (("constant_0", 0.0), ("constant_05", 0.5), ("constant_1", 1.0)):
        assert torch.equal(maps[name], torch.full((2, *SIZE), value))
    noise = torch.rand(*SIZE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(maps["random"], noise.expand(2, -1, -1))
    # One step from the centre is a fifth of the side, and sigma a quarter of it.
    profile = torch.exp(-((torch.tensor([-2.0, -1, 0, 1, 2]) / 5 / 0.25) ** 2) / 2)
    bump = (profile[:, None] * profile).expand(2, -1, -1)
    torch.testing.assert_close(maps["centred_gaussian"], bump)
    assert torch.equal(maps["ground_truth"], planted.quadrant_masks(*SIZE)[:2])


def test_only_the_truth_needs_the_objects():
    rows = sanity_rows(planted.explanandum())
    assert [name for name, row in rows.items() if row.needs_masks] == ["ground_truth"]
