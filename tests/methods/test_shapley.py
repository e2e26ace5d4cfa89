"""Loss and values by hand, exact Shapley values of planted games, and removal of patches."""

import math

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from benchmarks import shapley_grid
from explainers import Explanandum
from explainers.explanandum.features import NotDefinedError
from explainers.methods.kernel_shap import KernelSHAP
from explainers.methods.shapley import ShapleyExplainer, paired_coalitions
from tests import planted
from tests.support import fit_trainer, save

TINY = {"network": {"width": 16, "depth": 1}}


def made(explanandum=None, **arguments):
    torch.manual_seed(0)
    return ShapleyExplainer(explanandum or planted.explanandum(), **{"grid": 2} | TINY | arguments)


def shaken(**arguments):
    """A method whose network no longer gives 0."""
    method = made(**arguments)
    torch.nn.init.normal_(method.network.head.weight, std=0.1)
    return method.eval()


def transformer(**arguments):
    """A ViT with random weights and 3 x 3 patches."""
    torch.manual_seed(0)
    return Explanandum(
        "vit_tiny_patch16_224",
        num_classes=4,
        model_args={"img_size": 48, "depth": 2, "embed_dim": 48, **arguments},
    )


# The coalitions.


def test_coalitions_follow_the_shapley_kernel_in_pairs():
    kept = paired_coalitions(2000, 2, 4, torch.Generator().manual_seed(0))
    assert kept.shape == (2000, 4, 4)
    assert torch.equal(kept[:, 0::2], ~kept[:, 1::2])
    sizes = kept[:, 0::2].sum(dim=2).flatten()
    # 1 / (k (4 - k)) for k = 1, 2, 3: 4/12, 3/12, 4/12.
    share = sizes.bincount(minlength=5) / len(sizes)
    assert share.tolist() == pytest.approx([0, 4 / 11, 3 / 11, 4 / 11, 0], abs=0.03)
    single = kept[:, 0::2].flatten(0, 1)[sizes == 1].float().mean(dim=0)
    assert single.tolist() == pytest.approx([0.25] * 4, abs=0.04)


def test_two_players_leave_one_pair():
    kept = paired_coalitions(5, 1, 2, torch.Generator().manual_seed(0))
    assert (kept.sum(dim=2) == 1).all()


# The loss and the values.


def by_hand(quadrants, response):
    """Responses (4,) of the planted classifier, for the brightness of the quadrants shown."""
    logits = planted.SCALE * torch.tensor(quadrants)
    return logits.softmax(0) if response == "probability" else logits.log_softmax(0)


@pytest.mark.parametrize("response", ["probability", "log_probability"])
@pytest.mark.parametrize("classes", ["all", "predicted"])
def test_the_loss_of_equal_values_by_hand(response, classes):
    bright = [0.2, 0.1, 0.05, 0.0]
    images = torch.einsum("q,qhw->hw", torch.tensor(bright), planted.quadrant_masks(8, 8))
    method = made(response=response, classes=classes, samples=2)
    generator = torch.Generator().manual_seed(3)
    terms = method.loss_terms({"image": images.expand(1, 3, 8, 8)}, generator)
    columns = slice(None) if classes == "all" else slice(0, 1)
    empty, whole = by_hand([0.0] * 4, response)[columns], by_hand(bright, response)[columns]
    errors = []
    for kept in paired_coalitions(1, 1, 4, torch.Generator().manual_seed(3))[0].tolist():
        part = by_hand([b * k for b, k in zip(bright, kept, strict=True)], response)[columns]
        errors.append((empty + sum(kept) * (whole - empty) / 4 - part).square().mean())
    assert terms.keys() == {"shapley"}
    assert terms["shapley"].item() == pytest.approx(4 * sum(errors).item() / 2, rel=1e-4)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("response", ["probability", "log_probability"])
@pytest.mark.parametrize("fill", ["mean", "blur", "noise"])
def test_the_values_of_any_network_have_the_exact_sum(fill, response, multi_label):
    classifier = planted.explanandum(multi_label=multi_label)
    method = shaken(explanandum=classifier, fill=fill, response=response)
    images = 0.3 * planted.scenes(3)[0]
    values, logits = method.shapley_values(images)
    torch.testing.assert_close(logits, classifier(images))
    content = classifier.fill(fill, method.seed)(images).expand_as(images)
    ends = [method.to_responses(classifier(each)) for each in (images, content)]
    if response == "log_probability":
        torch.testing.assert_close(ends[0].exp(), classifier.probabilities(images))
    torch.testing.assert_close(values.sum(dim=2), ends[0] - ends[1], rtol=1e-4, atol=1e-5)
    assert (values - values.mean(dim=2, keepdim=True)).abs().max() > 0.01


def test_a_pixel_has_the_value_of_its_cell():
    method = shaken(grid=3)
    images, _ = planted.scenes(2, (10, 13))
    classes = torch.tensor([[2, 0], [1, 1]])
    values, _ = method.shapley_values(images)
    maps = method.class_maps(images, classes)
    assert maps.shape == (2, 2, 10, 13)
    assert torch.equal(maps[0, 0, 0, [0, 4, 5, 9, 12]], values[0, 2, [0, 0, 1, 2, 2]])
    assert torch.equal(maps[1, 0, [3, 4, 7, 9], 0], values[1, 1, [0, 3, 6, 6]])


def test_the_predicted_class_alone_is_explained_with_a_word():
    method = shaken(classes="predicted")
    images, targets = planted.scenes(2)
    values, logits = method.shapley_values(images)
    assert values.shape == (2, 1, 4)
    change = method.to_responses(logits) - method.empty(images)
    torch.testing.assert_close(values.sum(dim=2)[:, 0], change[targets], rtol=1e-4, atol=1e-5)
    maps = method.attribute(images, targets)
    with pytest.warns(UserWarning, match="ShapleyExplainer explains the predicted class only"):
        torch.testing.assert_close(method.attribute(images, targets.flip(0)), maps)
    assert method.class_maps(images, torch.tensor([[0, 1], [1, 0]])).shape == (2, 2, 32, 32)


@pytest.mark.parametrize(("fill", "passes"), [("mean", 3 + 1), ("kernel_blur", 3 + 3)])
def test_passes_are_those_of_the_docstring(fill, passes):
    method, seen = shaken(fill=fill), []
    first = method.explanandum.model.stem
    first.register_forward_hook(lambda *call: seen.append(len(call[2])))
    images, _ = planted.scenes(3)
    method.class_maps(images, torch.tensor([[0, 1, 2]] * 3))
    assert sum(seen) == passes
    seen.clear()
    method.loss_terms({"image": images}, torch.Generator().manual_seed(0))
    assert sum(seen) == passes + 3 * method.samples


# The truth.


def test_all_subsets_give_the_values_of_kernel_shap():
    """The responses to coalitions are those of the other method with the same grid."""
    classifier, images = shapley_grid.classifier(), shapley_grid.scenes(1, seed=0)
    exact = shapley_grid.solved(made(classifier, grid=3), images)
    other = KernelSHAP(classifier, samples=512, regions="grid", segments=9)
    maps = other.class_maps(images, torch.tensor([[0, 1, 2, 3]]))
    torch.testing.assert_close(exact.view(1, 4, 3, 3), maps[..., 4::8, 4::8])


def test_it_learns_the_exact_values_of_a_game():
    method = made(shapley_grid.classifier(), grid=3, network={"width": 32, "depth": 1})
    images = shapley_grid.scenes(8, seed=0)
    exact = shapley_grid.solved(method, images)
    errors = {}
    for step in shapley_grid.training(method, 120, batch=16, lr=6e-3):
        if step in (0, 40, 120):
            values = shapley_grid.predicted(method, images)
            errors[step] = shapley_grid.relative_error(values, exact)
    assert errors[0] == pytest.approx(1)  # equal values
    assert errors[120] < errors[40] < errors[0]
    assert errors[120] < 0.35
    change = method.to_responses(method.explanandum(images)) - method.empty(images)
    torch.testing.assert_close(values.sum(dim=2), change, rtol=0, atol=1e-5)


# Removed patches.


@pytest.mark.filterwarnings("ignore:.*random weights")
def test_removed_patches_have_no_say():
    method = made(transformer(), grid=3, fill="tokens")
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    kept = paired_coalitions(2, 3, 9, torch.Generator().manual_seed(1))
    found = method.responses(images, kept)
    for number in range(6):
        seen = kept[:, number].float()[:, method.cells(images)][:, None]
        other = images * seen + (1 - images) * (1 - seen)
        each = method.responses(other, kept[:, number : number + 1])
        torch.testing.assert_close(each[:, 0], found[:, number], rtol=1e-4, atol=1e-6)
    whole = method.responses(images, torch.ones(2, 1, 9).bool())[:, 0]
    torch.testing.assert_close(whole, method.explanandum.probabilities(images))
    assert (found - whole[:, None]).abs().max() > 1e-3
    assert not method.explanandum.model._forward_pre_hooks
    values, _ = method.shapley_values(images)
    torch.testing.assert_close(values.sum(dim=2), whole - method.empty(images), atol=1e-6, rtol=0)
    empty = method.responses(images, torch.zeros(2, 1, 9).bool())[:, 0]
    torch.testing.assert_close(empty[:1], empty[1:])  # of any image


@pytest.mark.filterwarnings("ignore:.*random weights")
def test_patches_are_not_removed_where_they_cannot_be():
    for kind in ("cnn", "vit"):  # neither takes an attn_mask
        with pytest.raises(NotDefinedError, match="takes none: choose another fill"):
            made(planted.explanandum(kind), fill="tokens")
    with pytest.raises(NotDefinedError, match="from the patches, not from a class token"):
        made(transformer(global_pool="avg", class_token=False), grid=3, fill="tokens")
    with pytest.raises(ValueError, match="has 3 x 3 patches: choose a grid that divides both"):
        made(transformer(), grid=2, fill="tokens")


# Training.


def data():
    images, _ = planted.scenes(8)
    samples = [{"image": image} for image in images]
    return DataLoader(samples, batch_size=4), DataLoader(samples[:4], batch_size=4)


class StopAfter(Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= 2


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_an_interrupted_fit_continues_exactly_and_loads_alone(tmp_path):
    def fit(*callbacks, ckpt_path=None):
        keep = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
        changes = {"max_steps": 4, "enable_checkpointing": True, "callbacks": [keep, *callbacks]}
        method = made()
        fit_trainer(tmp_path, **changes).fit(method, *data(), ckpt_path=ckpt_path)
        return method

    whole = fit()
    (tmp_path / "epoch=0.ckpt").unlink()
    fit(StopAfter())
    second = fit(ckpt_path=str(tmp_path / "epoch=0.ckpt"))
    torch.testing.assert_close(
        second.network.state_dict(), whole.network.state_dict(), rtol=0, atol=0
    )
    loaded = ShapleyExplainer.load_from_checkpoint(save(whole, tmp_path / "last.ckpt"))
    images, targets = planted.scenes(2)
    found = loaded.eval().attribute(images, targets)
    assert torch.equal(found, whole.eval().attribute(images, targets))
    assert loaded.hparams["network"] == {"width": 16, "depth": 1}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"grid": 1}, "a grid of at least 2"),
        ({"samples": 3}, "an even number of samples, got 2 and 3"),
        ({"response": "logit"}, "response must be one of"),
        ({"classes": "top"}, "classes must be one of"),
        ({"fill": "images"}, "fill must be one of"),
        ({"network": {"width": 10}}, "a multiple of 4"),
        ({"network": {"depth": -1}}, "depth >= 0"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        made(**wrong)


def test_images_smaller_than_the_grid_are_refused():
    with pytest.raises(ValueError, match="images of 4 x 8 pixels have no grid of 5 x 5"):
        made(grid=5).cells(torch.zeros(1, 3, 4, 8))


def test_the_log_probability_of_a_sigmoid_is_its_own():
    method = made(planted.explanandum(multi_label=True), response="log_probability")
    found = method.to_responses(torch.tensor([[0.0, 2.0, -300.0, 5.0]]))[0]
    assert found[:3].tolist() == pytest.approx([-math.log(2), -math.log1p(math.exp(-2)), -300])
