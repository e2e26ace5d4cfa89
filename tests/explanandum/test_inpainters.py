"""Inpainters in files: every format, every option, and what is refused."""

import warnings

import pytest
import torch
from torch import nn

from explainers import Explainer
from explainers.explanandum import inpainters
from explainers.functional.fills import Inpainted
from tests import planted


class Gray(nn.Module):
    """Fills holes with the mean of what is kept, after an offset, by the conventions of LaMa."""

    def __init__(self, offset: float = 0.0, scale: float = 1.0, hole: float = 1.0) -> None:
        super().__init__()
        self.offset, self.scale, self.hole = offset, scale, hole

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        holes = mask if self.hole == 1.0 else 1 - mask
        kept = image * (1 - holes)
        mean = kept.sum((2, 3), keepdim=True) / (1 - holes).sum((2, 3), keepdim=True).clamp_min(1)
        return kept + holes * (mean + self.offset * self.scale)


def save(network, path, batch=2):
    """Writes an inpainter in the format of the suffix."""
    example = torch.rand(batch, 3, 64, 64), torch.ones(batch, 1, 64, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.suffix == ".pt2":
            dims = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
            program = torch.export.export(network.eval(), example, dynamic_shapes=(dims, dims))
            torch.export.save(program, path)
        elif path.suffix == ".onnx":
            axes = {0: "n", 2: "h", 3: "w"}
            names = {"input_names": ["image", "mask"], "output_names": ["out"]}
            shapes = dict.fromkeys(("image", "mask", "out"), axes)
            torch.onnx.export(
                network.eval(), example, path, dynamo=False, dynamic_axes=shapes, **names
            )
        else:
            torch.jit.script(network).save(str(path))
    return str(path)


def scene():
    images = torch.rand(3, 3, 19, 26, generator=torch.Generator().manual_seed(0))
    masks = torch.ones(3, 19, 26)
    masks[:, 4:9, 6:12] = 0.2
    masks[2] = 0
    return images, masks


def expected(images, masks, offset=0.0):
    kept = (masks >= 0.5)[:, None]
    means = (images * kept).sum((2, 3), keepdim=True) / kept.sum((2, 3), keepdim=True)
    return images.where(kept, (means + offset).clamp(0, 1))


@pytest.mark.parametrize("suffix", [".ts", ".pt2", ".onnx"])
def test_every_format_fills_the_hole_and_keeps_the_rest(suffix, tmp_path):
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")
    path = save(Gray(), tmp_path / f"gray{suffix}")
    (tmp_path / "gray.yaml").write_text("multiple: 1")  # no repeated border in the mean
    fill = planted.explanandum().fill(path)
    images, masks = scene()
    filled = fill(images, masks)
    torch.testing.assert_close(filled[:2], expected(images, masks)[:2])
    assert torch.equal(filled[2], planted.explanandum().mean[0].expand(3, 19, 26))  # keeps nothing
    assert isinstance(fill, Inpainted)
    with pytest.raises(ValueError, match="needs the masks of what is kept; fills that do not"):
        fill(images)


def test_options_beside_the_file_say_what_it_expects(tmp_path):
    options = "{hole: 0, range: [0, 255], size: [16, 24], emptied: false}"
    path = save(Gray(offset=0.1, scale=255.0, hole=0.0), tmp_path / "own.pt")
    (tmp_path / "own.yaml").write_text(options)
    images, masks = torch.full((1, 3, 32, 48), 0.4), torch.ones(1, 32, 48)
    masks[:, 8:16, 8:24] = 0
    filled = planted.explanandum().fill(path)(images, masks)
    hole = filled[:, :, 10:14, 10:22]
    torch.testing.assert_close(hole, torch.full_like(hole, 0.5))
    assert torch.equal(filled[:, :, 20:], images[:, :, 20:])


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (Gray(hole=0.0), "", "set hole: 0"),
        (Gray(offset=200.0), "", "set range in .*wrong.yaml"),
        (Gray(), "size: [0, 3]", "no options of an inpainter"),
        (Gray(), "sizes: [9, 3]", "unknown option 'sizes'"),
        (Gray(), "hole: 2", "hole must be one of"),
        (Gray(), "just words", "no options of an inpainter"),
        (nn.Identity(), "", "fails on images of 64 x 64"),
    ],
)
def test_what_does_not_work_is_refused_in_one_line(network, options, message, tmp_path):
    path = save(network, tmp_path / "wrong.pt")
    (tmp_path / "wrong.yaml").write_text(options)
    with pytest.raises(ValueError, match=message) as error:
        planted.explanandum().fill(path)
    assert "\n" not in str(error.value)


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "words.pt").write_text("words")
    (tmp_path / "words.ckpt").write_text("words")
    for name, message in (("words.pt", "cannot be loaded"), ("words.ckpt", "is not a checkpoint")):
        with pytest.raises(ValueError, match=message):
            planted.explanandum().fill(str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        planted.explanandum().fill("nowhere.onnx")
    with pytest.raises(ValueError, match="unknown fill 'sand'"):
        planted.explanandum().fill("sand")
    with pytest.raises(ValueError, match="no checkpoint holds: give the path"):
        planted.explanandum().fill("inpainter_0123456789abcdef")


def test_a_network_of_one_image_is_called_one_by_one(tmp_path):
    network = torch.export.export(Gray(), (torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64)))
    torch.export.save(network, tmp_path / "one.pt2")
    images = torch.rand(2, 3, 64, 64)
    masks = torch.ones(2, 64, 64)
    masks[:, 9:12] = 0
    filled = planted.explanandum().fill(str(tmp_path / "one.pt2"))(images, masks)
    torch.testing.assert_close(filled, expected(images, masks))


def test_a_checkpoint_of_ours_is_used(tmp_path):
    from explainers.inpainter import Inpainter

    inpainter = Inpainter(network={"widths": [8, 8], "dilations": []})
    checkpoint = {"state_dict": inpainter.state_dict()}
    inpainter.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "own.ckpt")
    images, masks = scene()
    filled = planted.explanandum().fill(str(tmp_path / "own.ckpt"))(images, masks)
    torch.testing.assert_close(filled[:2], inpainter.inpaint(images, masks)[:2])
    torch.save(checkpoint | {"class_path": "os.path.Inpainter"}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="is not of this package"):
        planted.explanandum().fill(str(tmp_path / "evil.ckpt"))


def test_the_content_counts_not_the_place(tmp_path):
    first = save(Gray(), tmp_path / "a.pt")
    (tmp_path / "moved").mkdir()
    second = tmp_path / "moved" / "b.pt"
    second.write_bytes((tmp_path / "a.pt").read_bytes())
    given = {"fill": first, "fills": ["mean", first], "start": first, "insertion": {first: 1.0}}
    plain = inpainters.without_paths(given)
    name = inpainters.name_of(str(second))
    assert plain == {"fill": name, "fills": ["mean", name], "start": first, "insertion": {name: 1}}
    (tmp_path / "moved" / "b.yaml").write_text("multiple: 1")
    assert inpainters.name_of(str(second)) != name
    assert inpainters.uses_inpainter(given)
    assert inpainters.uses_inpainter({"start": {"init_args": {"deletion_fill": "harmonic"}}})
    assert not inpainters.uses_inpainter({"fill": "mean", "regions": "harmonic"})


def test_a_checkpoint_of_a_method_names_the_content_and_reads_no_file(tmp_path):
    from explainers.methods.ra_nem import RaNEM

    path = save(Gray(), tmp_path / "gray.pt")
    network = {"widths": [8] * 5}
    method = RaNEM(planted.explanandum(), fills=["mean", path], network=network).eval()
    checkpoint = {"state_dict": method.state_dict()}
    method.on_save_checkpoint(checkpoint)
    assert checkpoint["hyper_parameters"]["fills"] == ["mean", inpainters.name_of(path)]
    (tmp_path / "gray.pt").unlink()
    torch.save(checkpoint, tmp_path / "method.ckpt")
    again: Explainer = RaNEM.load_from_checkpoint(
        tmp_path / "method.ckpt", explanandum=planted.explanandum()
    ).eval()
    images, targets = planted.scenes(1)
    assert torch.equal(again.attribute(images, targets), method.attribute(images, targets))
    checkpoint["hyper_parameters"]["fills"] = ["mean", "gray.pt"]
    torch.save(checkpoint, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="neither imports nor reads"):
        RaNEM.load_from_checkpoint(tmp_path / "evil.ckpt", explanandum=planted.explanandum())
