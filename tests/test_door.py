"""What every call passes: checks with fixes in them, and that only once."""

import inspect
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from explainers import Explainer, Explanandum, door
from explainers.explanandum.taps import counted
from explainers.methods.cam import GradCAM
from explainers.methods.constant import Constant, Random
from explainers.methods.rise import RISE
from tests import planted
from tests.support import Gradient

SIZE = (4, 6)


@pytest.fixture
def case():
    return planted.scenes(2, SIZE)


# Checks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.numpy(), r"expected images \(B, 3, H, W\) .* as a tensor, got ndarray"),
        (lambda x: list(x), "as a tensor, got list"),
        (lambda x: x[0], r"got \(3, 4, 6\); a single image: images\[None\]$"),
        (lambda x: x[0].permute(1, 2, 0), r"images\[None\].permute\(0, 3, 1, 2\)"),
        (lambda x: x.permute(0, 2, 3, 1), r"channels last: images.permute\(0, 3, 1, 2\)"),
        (lambda x: x[:, :1], r"got \(2, 1, 4, 6\); gray images: images.expand\(-1, 3, -1, -1\)"),
        (lambda x: x[:, [0, 1, 2, 0]], r"without transparency: images\[:, :3\]"),
        (lambda x: x[:, :2], r"got \(2, 2, 4, 6\)$"),
        (lambda x: x[None], r"got \(1, 2, 3, 4, 6\)$"),
        (lambda x: x[..., :0], r"got \(2, 3, 4, 0\)"),
        (lambda x: (255 * x).byte(), "got torch.uint8; 8-bit images: images / 255"),
        (lambda x: (255 * x).int(), "got torch.int32; 8-bit images: images / 255"),
        (lambda x: x > 0.5, "got torch.bool"),
        (lambda x: x.to(torch.complex64), "got torch.complex64"),
        (lambda x: 255 * x, "got values from .* to .*; 8-bit images: images / 255"),
        (lambda x: (255 * x).half(), "8-bit images: images / 255"),
        (lambda x: x - 0.6, r"normalized images: images \* std \+ mean"),
        (lambda x: (x - 0.45) / 0.22, r"normalized images: images \* std \+ mean"),
        (lambda x: x.masked_fill(x > 0.8, torch.nan), "not finite"),
        (lambda x: x.masked_fill(x > 0.8, -torch.inf), "not finite"),
        (lambda x: x.to("meta"), r"images are on meta, the explainer on cpu: images.to\('cpu'\)"),
    ],
)
def test_wrong_images_are_refused_with_a_fix(case, change, message):
    images, targets = case
    method = Constant(planted.explanandum())
    for call in (
        lambda: method.attribute(change(images), targets),
        lambda: method.class_maps(change(images), torch.tensor([[0], [1]])),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.float(), r"got \(2, 4\) torch.float32; from class indices: F.one_hot"),
        (lambda t: t.long(), "dtype bool, got .* torch.int64"),
        (lambda t: t.long().argmax(1), r"of shape \(2, 4\) and dtype bool, got \(2,\) torch.int64"),
        (lambda t: [0, 1], r"got \(\) <class 'list'>"),
        (lambda t: 3, "got .* <class 'int'>"),
        (lambda t: t.numpy(), "expected multi-hot targets"),
        (lambda t: t[:, :3], r"of shape \(2, 4\)"),
        (lambda t: t[:1], r"of shape \(2, 4\)"),
        (lambda t: t[None], r"of shape \(2, 4\)"),
        (lambda t: t.to("meta"), r"the images are on cpu, the targets on meta: targets.to"),
    ],
)
def test_wrong_targets_are_refused_with_a_fix(case, change, message):
    images, targets = case
    with pytest.raises(ValueError, match=message):
        Constant(planted.explanandum()).attribute(images, change(targets))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (torch.tensor([0, 1]), r"of shape \(2, k\) and dtype int64, got .*classes\[:, None\]"),
        (torch.tensor([[0], [1]]).int(), "got .* torch.int32"),
        (torch.eye(4)[:2].bool(), "got .* torch.bool"),
        ([[0], [1]], "got .* <class 'list'>"),
        (torch.tensor([[0]]), r"of shape \(2, k\)"),
        (torch.tensor([[0], [4]]), r"expected classes in \[0, 3\], got 0 to 4"),
        (torch.tensor([[-1], [1]]), r"expected classes in \[0, 3\], got -1 to 1"),
        (torch.zeros(2, 1, dtype=torch.long, device="meta"), "the classes on meta"),
    ],
)
def test_wrong_classes_are_refused(case, classes, message):
    with pytest.raises(ValueError, match=message):
        Constant(planted.explanandum()).class_maps(case[0], classes)


def test_an_empty_batch_gives_empty_maps(case):
    images, targets = case
    method = Gradient(planted.explanandum())
    assert method.attribute(images[:0], targets[:0]).shape == (0, *SIZE)
    assert method.class_maps(images[:0], torch.zeros(0, 3).long()).shape == (0, 3, *SIZE)
    assert method.class_maps(images, torch.zeros(2, 0).long()).shape == (2, 0, *SIZE)


def test_images_that_the_classifier_does_not_take_have_their_own_line():
    deep = nn.Sequential(nn.MaxPool2d(8), nn.Flatten(), nn.Linear(12, 4))
    explanandum = Explanandum(deep, input_size=[16, 16], mean=[0.5] * 3, std=[0.5] * 3)
    method = RISE(explanandum, masks=2)
    with pytest.raises(ValueError, match=r"made for images of 16 x 16 and fails on 4 x 6 "):
        method.attribute(torch.rand(1, 3, *SIZE), torch.eye(4)[:1].bool())


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.vmap])
def test_transforms_of_functions_are_refused(case, transform):
    method = Constant(planted.explanandum())
    with pytest.raises(ValueError, match="outside of grad, vmap"):
        transform(lambda images: method.attribute(images, case[1]).sum())(case[0])


def test_maps_of_another_shape_are_named(case):
    class Channels(Explainer):
        def attribute(self, images, targets):
            return images

    class Array(Channels):
        def attribute(self, images, targets):
            return images[:, 0].numpy()

    for cls, message in (
        (Channels, r"Channels.attribute must return maps of shape \(2, 4, 6\), got \(2, 3, 4, 6\)"),
        (Array, "got ndarray"),
    ):
        with pytest.raises(ValueError, match=message):
            cls(planted.explanandum()).attribute(*case)


# Once


def test_the_door_is_passed_once_however_calls_are_nested(case, monkeypatch):
    class Outer(Explainer):
        def attribute(self, images, targets):
            return self.class_maps(images, targets.int().argmax(dim=1, keepdim=True))[:, 0]

        def class_maps(self, images, classes):
            return 1 + super().class_maps(images, classes)

    class Inner(Outer):
        def attribute(self, images, targets):
            if self.nested:
                return images.mean(dim=1)
            self.nested = True
            return super().attribute(images, targets)

    class Plain:
        """A base that knows nothing of explainers."""

        def attribute(self, images, targets):
            return super().attribute(images, targets)

    class Mixed(Plain, Inner):
        pass

    calls = []
    monkeypatch.setattr(
        door, "_entered", lambda explainer, own=door._entered: enter(explainer, own)
    )

    def enter(explainer, own):
        calls.append(explainer)
        return own(explainer)

    for cls in (Inner, Mixed):
        calls.clear()
        method = cls(planted.explanandum())
        method.nested = False
        torch.testing.assert_close(method.attribute(*case), 1 + case[0].mean(dim=1))
        assert calls == [method]
        method.merged_map(*case)
        assert calls == [method, method]
        with pytest.raises(ValueError, match="multi-hot"):
            method.attribute(case[0], case[1].float())


def test_a_method_in_a_method_passes_its_own_door(case):
    class Around(Explainer):
        def __init__(self, explanandum):
            super().__init__(explanandum)
            self.inner = Gradient(explanandum)

        def attribute(self, images, targets):
            with torch.no_grad():
                return 2 * self.inner.attribute(images, targets)

    method = Around(planted.explanandum())
    assert torch.equal(method.attribute(*case), 2 * method.inner.attribute(*case))


def test_signatures_docstrings_and_abstractness_are_kept():
    with pytest.raises(TypeError, match="abstract"):
        Explainer(planted.explanandum())
    assert list(inspect.signature(GradCAM.attribute).parameters) == ["self", "images", "targets"]
    assert "Maps (B, H, W)" in GradCAM.attribute.__doc__
    assert GradCAM.class_maps.__name__ == "class_maps"
    again = pickle.loads(pickle.dumps(Random(planted.explanandum(), seed=3)))
    images, targets = planted.scenes(1, SIZE)
    expected = Random(planted.explanandum(), seed=3).attribute(images, targets)
    assert torch.equal(again.attribute(images=images, targets=targets), expected)


def test_decorated_methods_and_further_arguments_pass(case):
    class Decorated(Explainer):
        @torch.no_grad()
        def attribute(self, images, targets, factor=1.0):
            return factor * images.mean(dim=1)

        @torch.inference_mode()
        def class_maps(self, images, classes, *, factor=1.0):
            return factor * images.mean(dim=1, keepdim=True)

    method, mean = Decorated(planted.explanandum()), case[0].mean(dim=1)
    assert torch.equal(method.attribute(*case, 3.0), 3 * mean)
    assert torch.equal(method.attribute(targets=case[1], images=case[0], factor=2.0), 2 * mean)
    classes = F.one_hot(torch.tensor([0, 1]), 4)[:, :1]
    maps = method.class_maps(case[0], classes, factor=2.0)
    assert torch.equal(maps, 2 * mean[:, None])
    assert not maps.is_inference()


def test_passes_are_those_of_the_method(case):
    method = Gradient(planted.explanandum())
    with counted(method.explanandum.model) as counts:
        method.attribute(*case)
    assert counts == [2, 2]


class Huge(Gradient):
    """Gives maps of float64."""

    largest = 1e300

    def attribute(self, images, targets):
        return torch.full_like(images[:, 0], self.largest, dtype=torch.float64)


def test_values_that_float32_does_not_hold_are_told_as_such(case):
    images, targets = case
    huge = Huge(planted.explanandum())
    with pytest.raises(ValueError, match=r"Huge gives maps with values up to 1e\+300, .* divide"):
        huge.attribute(images, targets)
    huge.largest = float("inf")
    assert torch.isinf(huge.attribute(images, targets)).all()
    huge.largest = 0.5
    assert huge.attribute(images, targets).dtype == torch.float32
