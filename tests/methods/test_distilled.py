import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from explainers import Explainer, load
from explainers.methods.cam import PyramidCAM
from explainers.methods.constant import CentredGaussian
from explainers.methods.distilled import Distilled
from explainers.methods.forgrad import FORGrad
from explainers.methods.rise import RISE
from explainers.methods.rtis import RTIS
from explainers.methods.stored import StoredMaps
from tests import planted
from tests.support import Scenes, fit_trainer, save

SMALL = {"network": {"widths": [16] * 5}}


class Noisy(Explainer):
    """The quadrant of the class, under noise of four times its standard deviation."""

    def attribute(self, images, targets):
        quadrants = planted.quadrant_masks(*images.shape[-2:])[targets.int().argmax(1)]
        return quadrants + 1.7 * torch.randn(images.shape[-2:], generator=self.generator())


class Corner(Explainer):
    """A map of 2 x 2 pixels."""

    def attribute(self, images, targets):
        return torch.tensor([[5.0, 1.0], [1.0, 1.0]]).expand(len(images), 2, 2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def taught(method, images, seed=0):
    classes = method.explanandum(images).argmax(1, keepdim=True)
    return method.taught({"image": images}, classes, generator(seed))


def correlation(maps, others):
    pairs = zip(maps.flatten(1), others.flatten(1), strict=True)
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]).mean().item()


@pytest.mark.parametrize(
    ("scale", "error"),
    [
        (None, ((1 - 3**0.5) ** 2 + 3 * 3**-1) / 4),  # the map is (5, 1, 1, 1) - 2, over 3 ** 0.5
        (2.0, ((1 - 2.5) ** 2 + 3 * 0.5**2) / 4),
    ],
)
def test_the_error_by_hand(scale, error):
    method = Distilled(planted.explanandum(), Corner, scale=scale, **SMALL)
    scores = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    method.network.forward = lambda features, size: scores.expand(2, 1, 2, 2)
    images, targets = planted.scenes(2, (2, 2))
    terms = method.loss_terms({"image": images}, generator())
    assert {name: value.item() for name, value in terms.items()} == {"error": pytest.approx(error)}
    assert torch.equal(method.attribute(images, targets)[0], scores * (scale or 1))


def test_at_first_the_loss_is_the_variance():
    images, _ = planted.scenes(3)
    for arguments in ({}, {"teacher": Noisy}):
        method = Distilled(planted.explanandum(), **arguments, **SMALL)
        assert method.loss_terms({"image": images}, generator())["error"].item() == pytest.approx(1)


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_the_noise_of_the_teacher_averages_out(kind):
    torch.manual_seed(0)
    method = Distilled(planted.explanandum(kind), Noisy, **SMALL)
    optimizer = torch.optim.Adam(method.network.parameters(), lr=1e-2)
    for step in range(45):
        images, _ = planted.scenes(8, seed=step + 1)
        loss = method.loss_terms({"image": images}, generator(step))["error"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, targets = planted.scenes(8, seed=999)
    truth = planted.quadrant_masks(32, 32)[targets.int().argmax(1)]
    assert correlation(Noisy(method.explanandum).attribute(images, targets), truth) < 0.3
    assert correlation(method.eval().attribute(images, targets).detach(), truth) > 0.8


def test_each_step_has_its_own_noise_and_repeats_it():
    explanandum, (images, _) = planted.explanandum(), planted.scenes(2)
    nested = Distilled(explanandum, lambda e: FORGrad(e, method=Noisy, cutoff=9), **SMALL)
    for method in (Distilled(explanandum, Noisy, **SMALL), nested):
        first = taught(method, images)
        assert not torch.allclose(taught(method, images, seed=1), first, atol=0.1)
        assert torch.equal(taught(method, images), first)


def test_without_a_teacher_it_learns_from_pyramid_cam():
    method = Distilled(planted.explanandum(), **SMALL)
    images, targets = planted.scenes(3)
    torch.testing.assert_close(
        taught(method, images), PyramidCAM(method.explanandum).attribute(images, targets)
    )


def test_untrained_with_evidence_it_is_pyramid_cam_for_any_class():
    method = Distilled(planted.explanandum(), Noisy, evidence=True).eval()
    images, classes = planted.scenes(2)[0], torch.tensor([[0, 3], [2, 1]])
    images = images + 0.2
    maps = method.class_maps(images, classes)
    torch.testing.assert_close(maps, PyramidCAM(method.explanandum).class_maps(images, classes))
    assert method.class_specific
    assert method.needs_gradients


def test_with_evidence_it_learns_another_map():
    torch.manual_seed(0)
    method = Distilled(planted.explanandum(), CentredGaussian, evidence=True)
    optimizer = torch.optim.Adam(method.network.parameters(), lr=5e-3)
    losses = []
    for step in range(30):
        loss = method.loss_terms({"image": planted.scenes(4, seed=step)[0]}, generator())["error"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


def test_the_pass_to_deploy_gives_the_same_scores():
    torch.manual_seed(0)
    method = Distilled(planted.explanandum(), Noisy, scale=3.0, **SMALL).eval()
    torch.nn.init.normal_(method.network.head.weight)
    images, targets = planted.scenes(2)
    assert torch.equal(method(images), method.attribute(images, targets))


def test_a_checkpoint_teaches_and_is_not_part_of_the_network(tmp_path):
    explanandum = planted.explanandum()
    teacher = RTIS(explanandum, network={"backbone": "tu-test_resnet", "decoder_channels": 16})
    path = save(teacher, tmp_path / "teacher.ckpt")
    method = Distilled(explanandum, checkpoint=path, **SMALL)
    images, targets = planted.scenes(2)
    plain = teacher.eval().attribute(images, targets).detach()
    torch.testing.assert_close(taught(method, images), plain)
    names = {name.partition(".")[0] for name in method.state_dict()}
    assert names == {"explanandum", "network"}
    before = {name: value.clone() for name, value in method.teachers[0].state_dict().items()}
    fit_trainer(tmp_path).fit(method, *[DataLoader([{"image": each} for each in images])] * 2)
    torch.testing.assert_close(dict(method.teachers[0].state_dict()), before, rtol=0, atol=0)


def test_it_loads_alone_and_says_what_taught_it(tmp_path):
    torch.manual_seed(0)
    method = Distilled(planted.explanandum(), lambda e: RISE(e, masks=3), **SMALL).eval()
    torch.nn.init.normal_(method.network.head.weight)
    path = save(method, tmp_path / "x.ckpt")
    loaded = load(path)
    images, targets = planted.scenes(2)
    assert torch.equal(loaded.attribute(images, targets), method.attribute(images, targets))
    assert loaded.teachers == []
    again = torch.load(save(loaded, tmp_path / "again.ckpt"), weights_only=True)
    assert again["teacher"]["class"] == "explainers.methods.rise.RISE"
    assert again["teacher"]["masks"] == 3
    assert "teacher" not in again["hyper_parameters"]


def fit(tmp_path, teacher, seed, **arguments):
    torch.manual_seed(seed)
    method = Distilled(planted.explanandum(), teacher, **SMALL)
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    trainer = fit_trainer(tmp_path, max_steps=4, enable_checkpointing=True, callbacks=[keep])
    trainer.fit(method, Scenes(count=4), **arguments)
    return method


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_resumed_fit_asks_the_teacher_the_same(tmp_path):
    def teacher(explanandum):
        return RISE(explanandum, masks=4)

    whole = fit(tmp_path, teacher, seed=0)
    path = str(tmp_path / "step=2.ckpt")
    resumed = fit(tmp_path, teacher, seed=1, ckpt_path=path)
    torch.testing.assert_close(
        resumed.network.state_dict(), whole.network.state_dict(), rtol=0, atol=0
    )
    with pytest.raises(ValueError, match=r"learned from explainers.methods.rise.RISE, and the tea"):
        fit(tmp_path, PyramidCAM, seed=1, ckpt_path=path)


def stored(folder):
    images, targets = planted.scenes(4, (8, 8))
    quadrants = planted.quadrant_masks(8, 8)[targets.int().argmax(1)]
    for number, each in enumerate(quadrants):
        np.save(folder / f"{number}.jpg.npy", each.numpy())
    method = Distilled(planted.explanandum(), lambda e: StoredMaps(e, str(folder)), **SMALL)
    return method, images, quadrants


def test_stored_maps_teach(tmp_path):
    method, images, quadrants = stored(tmp_path)
    batch = {"image": images, "name": [f"{number}.jpg" for number in range(4)]}
    classes = method.explanandum(images).argmax(1, keepdim=True)
    assert torch.equal(method.taught(batch, classes, generator()), quadrants)
    with pytest.raises(ValueError, match="holds no map of 'else'"):
        method.taught({**batch, "name": ["else"] * 4}, classes, generator())


def test_stored_maps_refuse_augmented_images(tmp_path):
    method, _, _ = stored(tmp_path)
    data = Scenes(count=4)
    data.augment = "crop"
    with pytest.raises(ValueError, match="augment false"):
        fit_trainer(tmp_path).fit(method, data)


def test_a_map_that_is_not_finite_is_refused():
    class Broken(Corner):
        def attribute(self, images, targets):
            return images[:, 0] / 0

    method = Distilled(planted.explanandum(), Broken, **SMALL)
    with pytest.raises(ValueError, match="the teacher Broken gives maps with values that are not"):
        method.loss_terms({"image": planted.scenes(1)[0]}, generator())


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"teacher": RISE, "checkpoint": "x.ckpt"}, "give teacher or checkpoint, not both"),
        ({"scale": 0.0}, "scale must be positive, got 0"),
        ({"evidence": True, **SMALL}, "which evidence does not use"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        Distilled(planted.explanandum(), **wrong)
