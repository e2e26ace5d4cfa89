"""Float32 around a classifier of any data type; mean and std stay exact."""

import pytest
import torch
from torch import nn

from explainers import Explanandum
from explainers.explanandum.precision import exact, own_dtype
from tests.tiny import KNOWN, Tiny, images

MEANS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def test_only_the_network_s_passes_use_the_autocast():
    explanandum = Explanandum(Tiny(), **KNOWN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = explanandum(images())
        with exact(explanandum):
            product = images()[0, 0] @ images()[0, 1]
            with exact(explanandum):
                assert torch.equal(explanandum(images()), low)
            assert torch.equal(explanandum(images()), low)
        assert (images()[0, 0] @ images()[0, 1]).dtype == torch.bfloat16
    assert torch.equal(product, images()[0, 0] @ images()[0, 1])
    high = explanandum(images())
    assert not torch.equal(high, low)
    torch.testing.assert_close(low, high, rtol=0.05, atol=0.05)
    with exact(explanandum):
        assert torch.equal(explanandum(images()), high)


def test_an_error_in_the_block_ends_it():
    explanandum = Explanandum(Tiny(), **KNOWN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(KeyError), exact(explanandum):
            raise KeyError
        assert explanandum.autocast_dtype is None
        assert torch.is_autocast_enabled("cpu")


def test_features_are_float32_inside_the_block():
    explanandum = Explanandum(Tiny(), **KNOWN, feature_layers=["body"])
    with torch.autocast("cpu", dtype=torch.bfloat16), exact(explanandum):
        levels, logits = explanandum.features_and_logits(images())
    assert [level.dtype for level in levels] == [torch.float32]
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("late", [False, True])
def test_logits_are_float32_or_better_and_the_config_stays(dtype, late):
    network = Tiny()
    explanandum = Explanandum(network if late else network.to(dtype), **MEANS)
    config = explanandum.config
    explanandum.to(dtype)
    found = explanandum(images())
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert explanandum.config == config
    assert explanandum.mean.dtype == found.dtype
    torch.testing.assert_close(
        explanandum.mean.flatten().float(), torch.tensor(MEANS["mean"]), rtol=0, atol=0
    )
    expected = Explanandum(Tiny(), **MEANS)(images())
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
    assert explanandum.normalize(images().to(dtype)).dtype == dtype


def test_it_comes_back_from_half_precision_with_the_same_normalization():
    explanandum = Explanandum(Tiny(), **MEANS)
    before = explanandum.normalize(images())
    explanandum.bfloat16().float()
    assert torch.equal(explanandum.normalize(images()), before)


def test_the_dtype_is_that_of_the_first_floating_weight():
    assert own_dtype(Tiny().double()) == torch.float64
    assert own_dtype(nn.Flatten()) is None
    counter = nn.Module()
    counter.register_buffer("count", torch.zeros(1, dtype=torch.int64))
    counter.register_buffer("scale", torch.zeros(1, dtype=torch.float16))
    assert own_dtype(counter) == torch.float16
