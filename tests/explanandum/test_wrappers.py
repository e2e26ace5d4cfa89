"""Wrappers hide neither what is known of a network nor its layers."""

import pytest
import torch
from timm.models import create_model
from torch import nn
from torch.optim.swa_utils import AveragedModel

from explainers import Explanandum
from explainers.explanandum import wrappers
from tests.tiny import KNOWN, Tiny, images

WRAPPERS = {
    "parallel": nn.DataParallel,
    "compiled": torch.compile,
    "sequential": nn.Sequential,
    "averaged": AveragedModel,
    "several": lambda network: torch.compile(nn.DataParallel(nn.Sequential(network))),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_are_taken_off(wrap, recwarn):
    network = create_model("test_resnet")
    explanandum = Explanandum(wrap(network))
    assert not [w for w in recwarn if "normalization" in str(w.message)]
    assert type(explanandum.model) is type(network)
    assert explanandum.mean.flatten().tolist() == [0.5] * 3
    assert explanandum.class_names[1] == "goldfish, Carassius auratus"
    shown = images(1, (64, 64))
    expected = Explanandum(network)
    torch.testing.assert_close(explanandum(shown), expected(shown))
    assert len(explanandum.features(shown)) == 5


def test_what_computes_something_is_no_wrapper():
    for network in (nn.Sequential(nn.Identity(), Tiny()), Tiny()):
        assert wrappers.unwrap(network) is network


def test_a_callable_may_return_a_wrapper():
    explanandum = Explanandum("tests.explanandum.test_wrappers:wrapped", **KNOWN)
    torch.testing.assert_close(explanandum(images()), Explanandum(Tiny(), **KNOWN)(images()))


def wrapped():
    return nn.DataParallel(Tiny())


def test_layers_of_statistics_are_no_normalization_of_the_input():
    assert wrappers.own_normalization(create_model("test_resnet")) is None
    assert wrappers.own_normalization(nn.BatchNorm2d(3)) is None


def test_what_is_no_module_is_refused():
    with pytest.raises(ValueError, match="got function; wrap a function in an nn"):
        Explanandum(lambda images: images.mean(dim=(2, 3)))


def test_weights_without_gradients_are_refused_and_our_own_have_them():
    with torch.inference_mode():
        with pytest.raises(ValueError, match="so that nothing can be differentiated"):
            Explanandum(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2)))
        frozen = Explanandum("test_resnet")
    assert not any(weight.is_inference() for weight in frozen.parameters())
