import pytest
import torch

from explainers import Explanandum
from explainers.callbacks.augmentation import KeepExplained
from explainers.explanandum.classifier import Classifier
from explainers.methods.evidence_nem import EvidenceNEM
from explainers.methods.rtis import RTIS
from tests import planted
from tests.support import fit_trainer, save, untrained_classifier

SMALL = {"backbone": "tu-test_resnet", "decoder_channels": 16, "atrous_rates": [1, 2, 3]}


class Watched(Classifier):
    """Remembers what it is shown."""

    def training_step(self, batch, batch_idx):
        self.shown.append(batch["image"].clone())
        return super().training_step(batch, batch_idx)


def shown(tmp_path, share, seed=0):
    """Images of a batch of 16, as the classifier sees them in its first two steps."""
    torch.manual_seed(0)
    explainer = RTIS(Explanandum(untrained_classifier(tmp_path)), network=SMALL)
    path = save(explainer, tmp_path / "explainer.ckpt")
    images = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    targets = torch.eye(6, dtype=torch.bool)[torch.arange(16) % 6]
    targets[15] = False
    batches = [{"image": images, "target": targets}] * 2
    model = Watched("test_resnet", 6, multi_label=True)
    model.shown = []
    callback = KeepExplained(path, share=share, seed=seed)
    fit = fit_trainer(tmp_path, callbacks=[callback], max_steps=2, num_sanity_val_steps=0)
    fit.fit(model, torch.utils.data.DataLoader(batches, batch_size=None))
    masks = callback.explainer.attribute(images, targets).detach()[:, None]
    mean = callback.explainer.explanandum.mean
    return images, mean + (images - mean) * masks, model.shown


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:You defined a `valid")
def test_a_share_of_the_images_shows_what_is_explained(tmp_path):
    images, kept, steps = shown(tmp_path, share=0.5)
    altered = [(each != images).flatten(1).any(1) for each in steps]
    for each, which in zip(steps, altered, strict=True):
        assert 0 < which.sum() < 16
        torch.testing.assert_close(each[which], kept[which], rtol=1e-5, atol=1e-6)
        assert not which[15]  # without a label nothing is kept: the image stays
    assert not torch.equal(*altered)
    _, _, again = shown(tmp_path, share=0.5)
    assert all(map(torch.equal, steps, again))


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:You defined a `valid")
@pytest.mark.parametrize(("share", "altered"), [(0.0, 0), (1.0, 15)])
def test_none_and_all(tmp_path, share, altered):
    images, _, (first, _) = shown(tmp_path, share)
    assert (first != images).flatten(1).any(1).sum() == altered


def test_what_cannot_mask_is_refused(tmp_path):
    path = save(EvidenceNEM(planted.explanandum()), tmp_path / "ranks.ckpt")
    with pytest.raises(ValueError, match="share must lie in"):
        KeepExplained(path, share=1.5)
    with pytest.raises(ValueError, match="EvidenceNEM, whose maps are no masks; deeplab and rtis"):
        KeepExplained(path)
