from types import SimpleNamespace

import pytest
import torch
from torch import nn

from datamodules.shapes import Shapes
from explainers import Explanandum
from explainers.explanandum.classifier import Classifier
from tests.support import fit_trainer
from tests.tiny import Tiny, images


def test_losses_by_hand():
    multi = Classifier("test_resnet", 3, multi_label=True, smoothing=0.1)
    logits = torch.tensor([[0.0, 2.0, -1.0]])
    wanted = torch.tensor([[0.1, 0.9, 0.1]])
    p = logits.sigmoid()
    expected = -(wanted * p.log() + (1 - wanted) * (1 - p).log()).mean()
    torch.testing.assert_close(multi.loss(logits, torch.tensor([[False, True, False]])), expected)
    single = Classifier("test_resnet", 3)
    torch.testing.assert_close(
        single.loss(logits, torch.tensor([[False, True, False]])), -logits.log_softmax(dim=1)[0, 1]
    )


def test_micro_scores_by_hand(tmp_path):
    class Fixed(nn.Module):
        """Says class 0, and class 1 where the image is bright."""

        def forward(self, x):
            bright = torch.where(x.mean(dim=(1, 2, 3)) > 0, 1.0, -1.0)
            return torch.stack([torch.ones_like(bright), bright], dim=1)

    model = Classifier(Fixed(), 2, multi_label=True, mean=[0.5] * 3, std=[1.0] * 3)
    images = torch.stack([torch.full((3, 4, 4), v) for v in (0.9, 0.1)])
    targets = torch.tensor([[True, False], [True, True]])
    batch = [{"image": i, "target": t} for i, t in zip(images, targets, strict=True)]
    loader = torch.utils.data.DataLoader(batch, batch_size=2)
    figures = fit_trainer(tmp_path).test(model, loader, verbose=False)[0]
    assert figures["test/precision"] == pytest.approx(2 / 3)
    assert figures["test/recall"] == pytest.approx(2 / 3)
    assert figures["test/f1"] == pytest.approx(2 / 3)


def test_the_head_alone_learns_and_the_rest_stays_asleep(tmp_path):
    torch.manual_seed(0)
    model = Classifier("resnet18", 6, multi_label=True, head=["fc"], optimizer={"lr": 1e-2})
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    fit_trainer(tmp_path).fit(
        model, Shapes(image_size=[32, 32], batch_size=4, train_images=8, val_images=4)
    )
    changed = {n for n, v in model.network.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"fc.weight", "fc.bias"}


def test_an_unknown_head_is_named():
    with pytest.raises(ValueError, match="no module 'classifier'"):
        Classifier("resnet18", 6, head=["classifier"])


def test_the_checkpoint_becomes_an_explanandum(tmp_path):
    torch.manual_seed(0)
    model = Classifier("test_resnet", 6, multi_label=True, mean=[0.1, 0.2, 0.3])
    fit = fit_trainer(tmp_path)
    fit.fit(model, Shapes(image_size=[32, 32], batch_size=4, train_images=8, val_images=4))
    fit.save_checkpoint(tmp_path / "classifier.ckpt")
    frozen = Explanandum(str(tmp_path / "classifier.ckpt"))
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(frozen(images), model.eval()(images))
    assert frozen.multi_label
    assert frozen.class_names[0] == "striped disc"
    again = Classifier.load_from_checkpoint(tmp_path / "classifier.ckpt")
    torch.testing.assert_close(again.eval()(images), model(images))


@pytest.mark.parametrize("training", [True, False])
def test_outputs_with_logits_and_wrappers_are_trained_too(training):
    wrapped = nn.DataParallel(Tiny(end=lambda z: SimpleNamespace(logits=z, loss=None)))
    plain = Classifier(Tiny(), 4).train(training)
    torch.testing.assert_close(Classifier(wrapped, 4).train(training)(images()), plain(images()))


def test_the_checkpoint_states_image_size_and_accuracy(tmp_path):
    for multi_label, figure in ((True, "val/f1"), (False, "val/top1")):
        model = Classifier("test_resnet", 6, multi_label=multi_label)
        fit, path = fit_trainer(tmp_path), str(tmp_path / "classifier.ckpt")
        fit.fit(model, Shapes(image_size=[32, 40], batch_size=4, train_images=8, val_images=4))
        fit.save_checkpoint(path)
        frozen = Explanandum(path)
        assert frozen.input_size == [32, 40]
        assert frozen.expected_accuracy == float(fit.callback_metrics[figure])
        assert Explanandum(**frozen.config).expected_accuracy == frozen.expected_accuracy
        assert Explanandum(path, expected_accuracy=0.5, input_size=[8, 8]).expected_accuracy == 0.5
        assert Classifier.load_from_checkpoint(path).hparams["model"] == "test_resnet"
    with pytest.raises(ValueError, match=r"expected_accuracy must lie in \[0, 1\], got 95"):
        Explanandum(path, expected_accuracy=95)


def test_a_checkpoint_of_an_earlier_version_states_neither():
    frozen = Explanandum("checkpoints/shapes_classifier.ckpt")
    assert frozen.expected_accuracy is None
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    again = Classifier.load_from_checkpoint("checkpoints/shapes_classifier.ckpt").eval()
    torch.testing.assert_close(frozen(images), again(images))


def test_other_checkpoints_are_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of"):
        Explanandum(str(tmp_path / "other.ckpt"))
    with pytest.raises(ValueError, match="not a checkpoint of our Classifier"):
        Classifier.load_from_checkpoint(tmp_path / "other.ckpt")


def test_a_classifier_learns_that_surroundings_say_nothing(tmp_path):
    def after(share):
        torch.manual_seed(0)
        data = Shapes(image_size=[32, 32], batch_size=8, train_images=32, val_images=4)
        model = Classifier(
            "test_resnet", 6, True, optimizer={"lr": 3e-3}, cut_outs=share, freeze_statistics=True
        )
        fit_trainer(tmp_path, max_steps=-1, max_epochs=4, limit_val_batches=0).fit(model, data)
        with torch.no_grad():
            return float(model.eval()(torch.full((1, 3, 32, 32), 0.5)).sigmoid().sum())

    assert after(1.0) < after(0.0)


def test_statistics_stay_frozen():
    model = Classifier("test_resnet", 6, True, freeze_statistics=True).train()
    before = model.network.bn1.running_mean.clone()
    model(torch.rand(4, 3, 32, 32))
    assert torch.equal(model.network.bn1.running_mean, before)


def test_wrong_use_is_refused():
    for wrong in ({"cut_outs": 1.5, "multi_label": True}, {"cut_outs": 0.5}):
        with pytest.raises(ValueError, match="cut_outs must lie"):
            Classifier("test_resnet", 6, **wrong)
    model = Classifier("test_resnet", 6, True, cut_outs=0.5)
    batch = {"image": torch.ones(1, 3, 12, 12), "target": torch.ones(1, 6, dtype=torch.bool)}
    with pytest.raises(ValueError, match="needs data with masks"):
        model.training_step(batch, 0)
