"""Representations and what the losses of the NEM family read off probabilities."""

import warnings

import pytest
import torch
from torch import nn

from explainers import Explanandum
from explainers.optimization import representation
from tests import planted


def test_a_representation_is_the_mean_over_positions():
    vector = torch.tensor([[1.0, 2.0]])
    tokens = torch.stack([vector, 3 * vector], dim=1)
    assert representation.pooled(vector) is vector
    assert representation.pooled(tokens).tolist() == [[2, 4]]
    assert representation.pooled(tokens.mT.unflatten(2, (1, 2))).tolist() == [[2, 4]]
    with pytest.raises(ValueError, match=r"\(B, N, C\)"):
        representation.pooled(torch.zeros(3))


def test_a_layer_is_named_or_numbered():
    explanandum, (images, _) = planted.explanandum(), planted.scenes(2)
    brightness = (images.mean(dim=1)[:, None] * planted.quadrant_masks(32, 32)).mean(dim=(2, 3))
    for layer in ("stages.3", "stages.0", 0, -1, 3):
        found = representation.representation(explanandum, images, layer)
        torch.testing.assert_close(found, brightness)
    assert not any(module._forward_hooks for module in explanandum.modules())
    for layer in (4, -5):
        with pytest.raises(ValueError, match=f"layer {layer} is none of the 4 levels"):
            representation.representation(explanandum, images, layer)
    with pytest.raises(ValueError, match="no module 'nothing'"):
        representation.representation(explanandum, images, "nothing")


def test_similarity_is_half_of_one_and_the_cosine():
    found = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [3.0, 4.0]])
    similarity = representation.similarity(found, torch.tensor([[1.0, 0.0]]).expand(4, 2))
    torch.testing.assert_close(similarity, torch.tensor([1.0, 0.5, 0.0, 0.8]))
    half = representation.similarity(found.half(), torch.ones(4, 2))
    torch.testing.assert_close(half, representation.similarity(found, torch.ones(4, 2)))


def test_what_the_losses_read_by_hand():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.6, 0.0], [0.5, 0.3, 0.2]])
    classes = torch.tensor([0, 1, 0])
    own = representation.target_probabilities(probabilities, classes)
    assert own.tolist() == pytest.approx([0.7, 0.6, 0.5])
    # The released code indexes the columns of all rows by the vector of all targets.
    literal = (1 - probabilities)[torch.arange(3)[:, None], classes[None, :]].mean()
    found = 1 - representation.target_probabilities(probabilities, classes, "crossed").mean()
    torch.testing.assert_close(found, literal)
    by_hand = 1 - (0.7 + 0.2 + 0.7 + 0.4 + 0.6 + 0.4 + 0.5 + 0.3 + 0.5) / 9
    assert literal.item() == pytest.approx(by_hand)


def test_a_warning_comes_unless_the_target_is_the_top_class_alone():
    logits = torch.tensor([[1.0, 3.0, 2.0], [4.0, 0.0, 1.0]])
    top = torch.tensor([[False, True, False], [True, False, False]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not representation.asks_for_another_class("NEMt", logits, top)
    for row in ([True, True, False], [False, False, True], [False, False, False]):
        targets = torch.stack([top[0], torch.tensor(row)])
        with pytest.warns(UserWarning, match="NEMt explains the predicted class only"):
            assert representation.asks_for_another_class("NEMt", logits, targets)


def test_a_channels_last_layer_is_averaged_over_its_positions():
    class Last(nn.Module):
        """Channels-last maps with as many channels as rows, and their mean."""

        def __init__(self):
            super().__init__()
            self.first, self.turned = nn.Conv2d(3, 8, 4, 4), nn.Identity()

        def forward(self, images):
            return self.turned(self.first(images).movedim(1, -1)).mean(dim=(1, 2))

    explanandum = Explanandum(Last(), mean=[0.0] * 3, std=[1.0] * 3, input_size=[32, 48])
    images = torch.rand(2, 3, 32, 48)
    found = representation.representation(explanandum, images, "turned")
    torch.testing.assert_close(found, explanandum(images))
