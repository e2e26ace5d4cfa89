"""Logits in whatever a network returns."""

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch

from explainers import Explanandum
from explainers.explanandum import outputs
from tests.tiny import KNOWN, Tiny, images

Pair = namedtuple("Pair", ["logits", "auxiliary"])


def maps(logits):
    return logits[:, :, None, None].expand(-1, -1, 5, 5)


def wide(logits):
    return torch.cat([logits, logits], dim=1)


READABLE = {
    "a tensor": lambda z: z,
    "a tuple of one": lambda z: (z,),
    "a list of one": lambda z: [z],
    "with maps": lambda z: (maps(z), z),
    "with loss and nothing": lambda z: [None, z.mean(), z],
    "named": lambda z: Pair(z, z + 1),
    "logits": lambda z: {"features": wide(z), "logits": z},
    "another name": lambda z: {"out": z, "loss": None},
    "an object": lambda z: SimpleNamespace(logits=z, hidden_states=(maps(z),)),
    "maps of one place": lambda z: z[:, :, None, None],
    "squeezed": lambda z: z[:, :, None, None].squeeze(),
    "half precision": lambda z: z.half(),
}


@pytest.mark.parametrize("end", READABLE.values(), ids=READABLE)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_logits_are_found(end, count):
    found = Explanandum(Tiny(end=end), **KNOWN)(images(count))
    expected = Explanandum(Tiny(), **KNOWN)(images(count))
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
    assert found.dtype == torch.float32


UNREADABLE = {
    "maps": (maps, "holds no logits .* maps must be averaged to one number for each class"),
    "segmentation": (lambda z: {"out": maps(z)}, "got dict of float32 .3, 4, 5, 5.; maps must"),
    "two of a kind": (lambda z: (z, z + 1), "holds several logits .* return the logits alone"),
    "logits and features": (lambda z: (z, wide(z)), "several logits .* set num_classes to their"),
    "the top class": (lambda z: z.argmax(dim=1), r"got int64 \(3,\)"),
    "detections": (lambda z: [{"boxes": z}], "got list of no tensors"),
    "nothing": (lambda z: None, "got NoneType of no tensors"),
    "strings": (lambda z: "cat", "got str of no tensors"),
    "a sum over the batch": (lambda z: z.sum(dim=0), "holds no logits for 3 images"),
    "the transpose": (lambda z: z.T, "holds no logits for 3 images"),
}


@pytest.mark.parametrize(("end", "told"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_holds_no_logits_is_refused_in_one_line(end, told):
    with pytest.raises(ValueError, match=told) as error:
        Explanandum(Tiny(end=end), **KNOWN)
    assert "\n" not in str(error.value)


def test_the_number_of_classes_decides_between_several():
    found = Explanandum(Tiny(end=lambda z: (wide(z), z)), num_classes=4, **KNOWN)
    torch.testing.assert_close(found(images()), Explanandum(Tiny(), **KNOWN)(images()))


def test_another_shape_than_that_of_the_trial_is_refused():
    reading = outputs.Reading(units=4, entry=None)
    assert outputs.read(torch.zeros(4), reading, 1).shape == (1, 4)
    with pytest.raises(ValueError, match=r"of 2 images have shape \(2, 5\), expected \(2, 4\)"):
        outputs.read(torch.zeros(2, 5), reading, 2)


def test_an_image_classifier_of_hugging_face_is_read():
    transformers = pytest.importorskip("transformers")
    options = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    names = {0: "cat", 1: "dog", 2: "cow"}
    network = transformers.ViTForImageClassification(
        transformers.ViTConfig(
            **options, intermediate_size=8, image_size=32, patch_size=8, id2label=names
        )
    )
    explanandum = Explanandum(network, **KNOWN)
    assert explanandum.class_names == list(names.values())
    assert explanandum.input_size == [32, 32]
    shown = images(2, (32, 32))
    expected = network(pixel_values=(shown - 0.5) / 0.25).logits
    torch.testing.assert_close(explanandum(shown), expected)
    with pytest.raises(ValueError, match="made for images of 32 x 32 and fails on 48 x 48"):
        explanandum(images(1, (48, 48)))
