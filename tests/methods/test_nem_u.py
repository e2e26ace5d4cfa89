import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.methods.nem_u import NEMU
from tests import planted

SMALL = {"network": {"widths": [16, 16, 16, 16]}}


def test_terms_by_hand():
    method = NEMU(planted.explanandum(), distance=4.0, area=0.5, **SMALL)
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, :16, :16], image[:, :, 16:, 16:] = 0.6, 0.8
    mask = torch.zeros(1, 32, 32)
    mask[:, :16, :16], mask[:, 16:, 16:] = 1.0, 0.25
    method.masks = lambda *_: mask
    terms = method.loss_terms({"image": image}, torch.Generator())
    # Deepest features: each channel the brightness of its quadrant, over the map.
    whole, kept = torch.tensor([0.6, 0, 0, 0.8]), torch.tensor([0.6, 0, 0, 0.2])
    cosine = float(whole @ kept / (whole.norm() * kept.norm()))
    assert terms["distance"].item() == pytest.approx(4 * (1 - cosine) / 2, rel=1e-4)
    assert terms["area"].item() == pytest.approx(0.5 * 1.25 / 4)


class Quadrant(nn.Module):
    """Its layer sees the brightness of the first quadrant, and a constant."""

    def __init__(self):
        super().__init__()
        self.look = nn.Identity()

    def forward(self, images):
        seen = images.mean(dim=1, keepdim=True) * planted.quadrant_masks(32, 32)[0]
        maps = F.avg_pool2d(seen, 4)
        found = self.look(torch.cat([maps, torch.full_like(maps, 0.5)], dim=1))
        return torch.cat([found, -found], dim=1).mean(dim=(2, 3))


def test_its_masks_shrink_to_what_the_representation_needs():
    """All but the first quadrant can go; its brightness cannot, beside the constant."""
    torch.manual_seed(0)
    subject = Explanandum(Quadrant(), mean=[0.0] * 3, std=[1.0] * 3, input_size=[32, 32])
    method = NEMU(subject, layer="look", area=0.2, **SMALL)
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    for step in range(60):
        images, _ = planted.scenes(4, seed=step + 1)
        loss = sum(method.loss_terms({"image": images}, torch.Generator()).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        masks = method.eval().attribute(images, torch.ones(4, 4, dtype=torch.bool))
    inside, outside = masks[:, :16, :16].mean(), masks[:, 16:, 16:].mean()
    assert inside > 5 * outside  # 16 to 67 times, over four seeds
    assert 0 <= masks.min() <= masks.max() <= 1


def test_it_has_no_target():
    method = NEMU(planted.explanandum(), **SMALL).eval()
    images, targets = planted.scenes(2)
    assert torch.equal(
        method.attribute(images, targets), method.attribute(images, targets.roll(1, 1))
    )
    assert not method.class_specific
    with pytest.raises(ValueError, match="name must be one of"):
        NEMU(planted.explanandum(), optimizer={"name": "rmsprop"})


@pytest.mark.parametrize("side", [1, 2, 5, 9])
def test_small_images_are_explained_and_learned_from(side):
    method = NEMU(planted.explanandum(), **SMALL)
    images, targets = planted.scenes(2, (side, side))
    sum(method.loss_terms({"image": images}, torch.Generator()).values()).backward()
    masks = method.eval().attribute(images, targets)
    assert masks.shape == (2, side, side)
    assert masks.min() >= 0


def test_a_classifier_of_torchvision_needs_no_names_of_its_stages(tmp_path):
    """The same stages are found again, before the weights of the checkpoint are loaded."""
    torch.manual_seed(0)
    explanandum = Explanandum("torchvision/mobilenet_v3_small", num_classes=3, input_size=[64, 96])
    method = NEMU(explanandum, **SMALL).eval()
    names = ["features.0", "features.1", "features.3", "features.8", "features"]
    assert explanandum.sources.names == names
    images, targets = torch.rand(2, 3, 64, 96), torch.eye(3)[:2].bool()
    expected = method.attribute(images, targets)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(method)
    trainer.save_checkpoint(tmp_path / "nem_u.ckpt")
    loaded = NEMU.load_from_checkpoint(str(tmp_path / "nem_u.ckpt")).eval()
    assert loaded.explanandum.sources == explanandum.sources
    assert torch.equal(loaded.attribute(images, targets), expected)
