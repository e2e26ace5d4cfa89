"""The state in which a method runs, whoever calls and from wherever."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from explainers import Explainer
from explainers.methods.cam import GradCAM
from explainers.methods.constant import Constant
from explainers.methods.ra_nem import RaNEM
from tests import planted
from tests.support import Gradient

SIZE = (4, 6)


class Forgetful(Gradient):
    """The same without its flag."""

    needs_gradients = False


class Recorder(Explainer):
    """Keeps the state in which it is called."""

    def attribute(self, images, targets):
        self.seen = {
            "dtype": images.dtype,
            "default": torch.get_default_dtype(),
            "device": torch.tensor(0).device.type,
            "inference": torch.is_inference_mode_enabled() or images.is_inference(),
            "gradients": torch.is_grad_enabled(),
            "tracked": images.requires_grad,
            "autocast": torch.is_autocast_enabled("cpu"),
        }
        return images.double().mean(dim=1)


PLAIN = {
    "dtype": torch.float32,
    "default": torch.float32,
    "device": "cpu",
    "inference": False,
    "gradients": True,
    "tracked": False,
    "autocast": False,
}


@pytest.fixture
def case():
    return planted.scenes(2, SIZE)


def test_noise_around_the_range_is_accepted_and_so_is_every_floating_type(case):
    images, targets = case
    method = Recorder(planted.explanandum())
    assert method.attribute(images - 0.4, targets).min() < 0
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        maps = method.attribute(images.to(dtype), targets)
        torch.testing.assert_close(maps, images.mean(dim=1), rtol=0, atol=1e-2)
        assert maps.dtype == method.seen["dtype"] == torch.float32


@pytest.mark.parametrize(
    ("around", "gradients"),
    [
        (torch.enable_grad, True),
        (torch.no_grad, False),
        (torch.inference_mode, False),
        (lambda: torch.autocast("cpu", torch.bfloat16), True),
        (lambda: torch.autocast("cpu", torch.float16), True),
        (lambda: torch.device("meta"), True),
    ],
)
def test_a_method_finds_one_state(case, around, gradients):
    images, targets = case
    method, other = Recorder(planted.explanandum()), Gradient(planted.explanandum())
    expected = other.attribute(images, targets)
    with around():
        maps = method.attribute(images.clone().requires_grad_(gradients), targets)
        found = other.attribute(images, targets)
    assert method.seen == PLAIN | {"gradients": gradients}
    assert not maps.requires_grad
    assert not maps.is_inference()
    if not torch.is_autocast_enabled("cpu"):
        torch.testing.assert_close(found, expected, rtol=1e-1, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_is_the_callers_again(case, dtype):
    method = Recorder(planted.explanandum())
    torch.set_default_dtype(dtype)
    try:
        method.attribute(*case)
        assert torch.get_default_dtype() == dtype
        with pytest.raises(ValueError, match="multi-hot"):
            method.attribute(case[0], None)
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert method.seen == PLAIN


def test_a_gradient_method_needs_no_care():
    images, targets = planted.scenes(2, (16, 16))
    method = Gradient(planted.explanandum())
    mark = images.clone().requires_grad_()
    expected = 4 * planted.SCALE / 256 * planted.quadrant_masks(16, 16)[:2] * images.mean(dim=1)
    for pictures in (images, mark):
        maps = method.attribute(pictures, targets)
        torch.testing.assert_close(maps, expected)
        assert not maps.requires_grad
    assert torch.equal(mark, images)  # what the method does to its inputs stays inside
    assert mark.grad is None
    assert targets.sum() == 2


def test_a_forgotten_flag_is_named(case):
    method = Forgetful(planted.explanandum())
    method.attribute(*case)  # the caller has gradients enabled
    for around in (torch.no_grad, torch.inference_mode):
        with (
            around(),
            pytest.raises(ValueError, match=r"Forgetful differentiates: .* needs_gradients = True"),
        ):
            method.attribute(*case)


def test_a_missing_requires_grad_is_named(case):
    class Detached(Gradient):
        def attribute(self, images, targets):
            return torch.autograd.grad(self.explanandum(images).sum(), images)[0]

    with pytest.raises(ValueError, match=r"requires_grad_\(\)"):
        Detached(planted.explanandum()).attribute(*case)


def test_other_errors_are_left_alone(case):
    class Broken(Explainer):
        def attribute(self, images, targets):
            raise RuntimeError("my own")

    with pytest.raises(RuntimeError, match="my own"):
        Broken(planted.explanandum()).attribute(*case)


def test_a_learned_method_trains_through_attribute(case):
    class Learned(Recorder):
        def __init__(self, explanandum):
            super().__init__(explanandum)
            self.weight = nn.Parameter(torch.ones(()))

        def attribute(self, images, targets):
            return self.weight * super().attribute(images, targets)

    method = Learned(planted.explanandum())
    method.attribute(*case).mean().backward()
    torch.testing.assert_close(method.weight.grad, case[0].mean())
    with torch.no_grad():
        assert not method.attribute(*case).requires_grad


def test_a_start_takes_gradients_in_inference_mode(case):
    options = {"network": {"widths": [8] * 4}, "start": "pyramid_cam"}
    method = RaNEM(planted.explanandum(), **options).eval()
    images, classes = planted.scenes(2)[0], torch.tensor([[0], [1]])
    with torch.no_grad():
        expected = method.class_maps(images, classes)
    with torch.inference_mode():
        found = method.class_maps(images, classes)
        (start,) = method.starts(images, classes)  # as in the loss of a validation
    torch.testing.assert_close(found, expected)
    assert start.shape == (2, 1, 32, 32)


def test_a_target_without_a_class_gives_zero_where_maps_depend_on_it(case):
    class First(Explainer):
        def attribute(self, images, targets):
            return targets.int().argmax(dim=1)[:, None, None] + torch.ones_like(images[:, 0])

    images, targets = case
    targets[0] = False
    maps = First(planted.explanandum()).attribute(images, targets)
    assert [m.unique().item() for m in maps] == [0.0, 2.0]
    assert Constant(planted.explanandum()).attribute(images, targets).unique().item() == 0.5


def test_threads_that_share_a_classifier_wait_for_each_other():
    explanandum = planted.explanandum()
    images, targets = planted.scenes(8)
    methods = [GradCAM(explanandum, f"stages.{i % 4}") for i in range(8)]
    expected = [method.attribute(images, targets) for method in methods]
    start = threading.Barrier(8)

    def explain(method):
        start.wait()
        return [method.attribute(images, targets) for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        for found, maps in zip(pool.map(explain, methods), expected, strict=True):
            assert all(torch.equal(each, maps) for each in found)
