import warnings

import pytest
import torch
from torch.nn import functional as F

from explainers import nem
from explainers.methods.ra_nem import RaNEM, another
from tests import planted

SMALL = {"widths": [8] * 4, "dropout": 0.0}


def trained(steps=40, **changes):
    torch.manual_seed(0)
    method = RaNEM(planted.explanandum(), **SMALL, optimizer="adamw", lr=1e-2, **changes)
    optimizer = method.configure_optimizers()["optimizer"]
    for step in range(steps):
        images, _ = planted.scenes(8, seed=step)
        generator = torch.Generator().manual_seed(step)
        loss = method.loss_terms({"image": images}, generator)["distance"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return method.eval(), loss.item()


def share_of_quadrants(maps):
    """Part (B, 4) of the brightest quarter of each map that lies in each quadrant."""
    level = maps.flatten(1).quantile(0.75, dim=1)[:, None, None]
    top = (maps > level).float()
    masks = planted.quadrant_masks(*maps.shape[-2:])
    return torch.einsum("bhw,khw->bk", top, masks) / top.sum(dim=(1, 2))[:, None]


def test_it_learns_without_labels_to_rank_the_deciding_quadrant_first():
    method, loss = trained()
    images, targets = planted.scenes(8, seed=1000)
    with torch.no_grad():
        maps = method.attribute(images, targets)
    assert float(share_of_quadrants(maps)[targets].mean()) > 0.6
    assert loss < 0.5


def test_a_class_conditioned_one_has_a_map_for_each_class():
    method, _ = trained(80, class_conditioned=True)
    images, targets = planted.scenes(8, seed=1000)
    images = images + 0.35 * planted.quadrant_masks(32, 32)[targets.int().argmax(1) - 1][:, None]
    classes = torch.stack([targets.int().argmax(1), (targets.int().argmax(1) - 1) % 4], 1)
    with torch.no_grad():
        maps = method.class_maps(images, classes)
        assert torch.equal(maps[:, 1], method.attribute(images, F.one_hot(classes[:, 1], 4).bool()))
    for place in range(2):
        shares = share_of_quadrants(maps[:, place])
        own = shares.gather(1, classes[:, place : place + 1]).mean()
        other = shares.gather(1, classes[:, 1 - place : 2 - place]).mean()
        assert own > other


def test_row_and_crossed_losses_by_hand():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])
    classes = torch.tensor([0, 2])
    assert nem.pick(probabilities, classes).tolist() == pytest.approx([0.7, 0.4])
    crossed = nem.pick(probabilities, classes, "crossed")
    torch.testing.assert_close(crossed, torch.tensor([[0.7, 0.1], [0.3, 0.4]]))


def test_a_step_makes_one_clean_and_one_masked_pass_and_one_backward():
    method = RaNEM(planted.explanandum(), **SMALL)
    seen = []
    method.explanandum.model.register_forward_hook(
        lambda module, inputs, output: seen.append((len(output), output.requires_grad))
    )
    images, _ = planted.scenes(3)
    terms = method.loss_terms({"image": images}, torch.Generator().manual_seed(0))
    assert seen == [(3, False), (18, True)]
    terms["distance"].backward()
    assert method.network.head.weight.grad.abs().sum() > 0


def test_masked_images_show_k_pixels_and_the_fill_elsewhere():
    method = RaNEM(planted.explanandum(), **SMALL, fills=["mean"], samples=4)  # mean 0
    images = torch.rand(2, 3, 8, 8) + 0.1
    shown = method.masked(images, torch.randn(2, 8, 8), torch.Generator().manual_seed(0))
    kept = (shown != 0).all(dim=2)
    assert torch.equal((shown != 0).any(dim=2), kept)
    assert torch.equal(shown, images[:, None] * kept[:, :, None])
    counts = kept.sum(dim=(2, 3))
    for part in range(4):
        assert ((counts[:, part] > 16 * part) & (counts[:, part] <= 16 * (part + 1))).all()
    assert counts[0].tolist() != counts[1].tolist()
    batch = RaNEM(planted.explanandum(), **SMALL, fills=["mean"], draw="batch")
    shown = batch.masked(images, torch.randn(2, 8, 8), torch.Generator().manual_seed(0))
    counts = (shown != 0).all(dim=2).sum(dim=(2, 3))
    assert counts[0].tolist() == counts[1].tolist()


def test_another_class_is_never_the_same():
    probabilities = torch.tensor([[0.98, 0.01, 0.01]]).expand(300, 3)
    drawn = another(probabilities, torch.zeros(300).long(), torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {1, 2}


def test_it_warns_once_when_asked_for_another_class():
    method = RaNEM(planted.explanandum(), **SMALL).eval()
    images, targets = planted.scenes(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predicted = method.attribute(images, targets)
    with pytest.warns(UserWarning, match="explains the predicted class only"):
        other = method.attribute(images, targets.roll(1, 1))
    assert torch.equal(predicted, other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method.attribute(images, targets.roll(1, 1))


def test_an_unsupervised_delta_learns_too():
    method, _ = trained(3, delta="unsupervised")
    images, targets = planted.scenes(2)
    assert method.attribute(images, targets.roll(1, 1)).shape == (2, 32, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fills": ["pink"]}, "fills must be among"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"delta": "unsupervised", "class_conditioned": True}, "no classes"),
        ({"loss": "diagonal"}, "loss must be one of"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        RaNEM(planted.explanandum(), **SMALL, **changes)


def test_half_precision_training_gives_finite_gradients():
    method = RaNEM(planted.explanandum(), **SMALL)
    images, _ = planted.scenes(2)
    with torch.autocast("cpu", torch.bfloat16):
        terms = method.loss_terms({"image": images}, torch.Generator().manual_seed(0))
    terms["distance"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


def test_it_exports_as_one_graph():
    method = RaNEM(planted.explanandum(), **SMALL).eval()
    images, targets = planted.scenes(2)
    program = torch.export.export(method, (images,))
    torch.testing.assert_close(program.module()(images), method.attribute(images, targets))


def test_onnx_runtime_gives_the_same_map(tmp_path):
    pytest.importorskip("onnxscript", reason="install the extra onnx")
    runtime = pytest.importorskip("onnxruntime", reason="install the extra onnx")
    method = RaNEM(planted.explanandum(), **SMALL).eval()
    images, targets = planted.scenes(2)
    path = tmp_path / "explainer.onnx"
    torch.onnx.export(method, (images,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path)
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    wanted = method.attribute(images, targets).detach()
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-4)
