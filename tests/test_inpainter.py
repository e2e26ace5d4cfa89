"""The learned inpainter: it starts at the harmonic fill, learns, resumes, and loads alone."""

import sys

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from PIL import Image

from benchmarks import inpainting
from datamodules.shapes import Shapes
from explainers import Explanandum
from explainers.cli import CLI, main
from explainers.functional.inpainting import harmonic
from explainers.inpainter import Inpainter
from tests import planted
from tests.support import fit_trainer

SMALL = {"widths": [8, 8], "dilations": [2]}


def shapes():
    return Shapes(image_size=[32, 32], batch_size=4, train_images=16, val_images=4, num_workers=0)


def small(**arguments):
    torch.manual_seed(0)
    return Inpainter(**{"network": SMALL} | arguments)


def scene(count=2, size=(20, 27)):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, *size, generator=generator)
    masks = torch.ones(count, *size)
    masks[:, 4:11, 5:16] = 0
    return images, masks


def test_a_new_one_is_the_harmonic_fill():
    images, masks = scene()
    model = small()
    assert torch.equal(model.inpaint(images, masks), harmonic(images, masks))
    assert torch.equal(model.inpaint(images, torch.ones_like(masks)), images)


def test_kept_pixels_stay_and_missing_ones_are_not_read():
    images, masks = scene()
    model = small()
    torch.nn.init.normal_(model.network.head.weight)
    filled = model.inpaint(images, masks)
    kept = masks[:, None] >= 0.5
    assert torch.equal(filled.where(kept, 0), images.where(kept, 0))
    assert not torch.equal(filled, harmonic(images, masks))
    assert filled.min() >= 0
    assert filled.max() <= 1
    assert torch.equal(filled, model.inpaint(images.where(kept, torch.nan), masks))
    half = model.inpaint(images.bfloat16(), masks)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), filled, atol=0.05, rtol=0)
    nothing = model.inpaint(images, torch.zeros_like(masks))
    assert nothing.isfinite().all()
    assert torch.equal(nothing, model.inpaint(1 - images, torch.zeros_like(masks)))


def test_terms_by_hand():
    images, masks = torch.zeros(1, 3, 4, 4), torch.ones(1, 4, 4)
    masks[0, :2, :2] = 0
    predicted = torch.full((1, 3, 4, 4), 0.5)
    terms = small(losses={"hole": 2.0, "kept": 1.0}).loss_terms(images, masks, predicted)
    assert {name: value.item() for name, value in terms.items()} == {"hole": 1.0, "kept": 0.5}


def test_it_learns_what_the_harmonic_fill_cannot_know():
    """Stripes: their brightness in a hole follows from the row."""
    torch.manual_seed(0)
    rows = (torch.arange(32) % 4 < 2).float().view(1, 1, 32, 1).expand(8, 3, 32, 32)
    model = small(network={"widths": [16, 16], "dilations": []})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    masks = (torch.rand(8, 8, 8, generator=generator) > 0.4).float()
    masks = masks.repeat_interleave(4, 1).repeat_interleave(4, 2)
    filled = harmonic(rows, masks)
    for _ in range(60):
        loss = sum(model.loss_terms(rows, masks, model(filled, masks)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    start = sum(model.loss_terms(rows, masks, filled).values())
    assert loss < start / 3


@pytest.mark.parametrize(
    "losses",
    [None, {"scales": 2, "kept": 0.1, "gradient": 0.1, "spectrum": 0.1}, {"adversarial": 0.1}],
)
def test_a_fit_resumes_exactly_and_loads_alone(tmp_path, losses):
    class Save(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    whole = small(losses=losses)
    fit_trainer(tmp_path, max_steps=6, callbacks=[Save()]).fit(whole, shapes())
    rest = small(losses=losses)
    last = fit_trainer(tmp_path, max_steps=6)
    last.fit(rest, shapes(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name
    last.save_checkpoint(tmp_path / "last.ckpt")
    again = Inpainter.load_from_checkpoint(tmp_path / "last.ckpt")
    images, masks = scene()
    assert torch.equal(again.inpaint(images, masks), rest.eval().inpaint(images, masks))
    assert again.cost["steps"] == 6
    assert again.cost["seconds"] > 0
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert stored["trained"] == {"input_size": [32, 32]}
    assert {"val/psnr", "val/ssim", "val/harmonic_psnr", "val/harmonic_ssim"} <= set(
        fit_trainer(tmp_path).validate(rest, shapes(), verbose=False)[0]
    )


def test_the_critic_and_the_inpainter_do_not_learn_from_each_others_loss():
    images, masks = scene(2, (32, 32))
    model = small(losses={"hole": 0.0, "adversarial": 1.0})
    filled = harmonic(images, masks)
    terms = model.loss_terms(images, masks, model(filled, masks))
    networks = {"adversarial": model.network, "critic": model.critic}
    for name, term in terms.items():
        model.zero_grad()
        term.backward(retain_graph=True)
        for own, network in networks.items():
            moved = any(p.grad is not None and p.grad.any() for p in network.parameters())
            assert moved == (own == name)


def test_the_perceptual_network_is_frozen_and_not_stored(tmp_path):
    arguments = {"losses": {"perceptual": 0.5}}
    classifier = planted.explanandum()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    model = small(perceptual=classifier, **arguments)
    fit = fit_trainer(tmp_path)
    fit.fit(model, shapes())
    assert "perceptual" in model.terms
    assert all(torch.equal(value, classifier.state_dict()[n]) for n, value in before.items())
    fit.save_checkpoint(tmp_path / "last.ckpt")
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert not any(name.startswith("perceptual") for name in stored["state_dict"])
    alone = Inpainter.load_from_checkpoint(tmp_path / "last.ckpt")
    images, masks = scene()
    assert torch.equal(alone.inpaint(images, masks), model.eval().inpaint(images, masks))
    path = tmp_path / "last.ckpt"
    resumed = small(perceptual=planted.explanandum(), **arguments)
    fit_trainer(tmp_path, max_steps=3).fit(resumed, shapes(), ckpt_path=path, weights_only=True)
    other = planted.explanandum()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    model = small(perceptual=Explanandum(other.model, num_classes=4), **arguments)
    with pytest.raises(ValueError, match="began with another perceptual network"):
        fit_trainer(tmp_path, max_steps=3).fit(model, shapes(), ckpt_path=path, weights_only=True)
    with pytest.raises(ValueError, match=r"give model\.init_args\.perceptual"):
        fit_trainer(tmp_path).fit(alone, shapes())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"losses": {"hole": -1.0}}, "must be at least 0"),
        ({"losses": {"hole": 0.0}}, "some of them above 0"),
        ({"losses": {"scales": 0}}, "scales at least 1"),
        ({"losses": {"style": 1.0}}, "unknown option 'style'"),
        ({"network": {"widths": []}}, "widths and dilations must be positive"),
    ],
)
def test_arguments_are_checked(arguments, text):
    with pytest.raises(ValueError, match=text):
        Inpainter(**arguments)


def test_a_network_without_a_weight_is_refused():
    with pytest.raises(ValueError, match="perceptual is given but has no weight"):
        Inpainter(perceptual=planted.explanandum())


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Inpainter.load_from_checkpoint(tmp_path / "no.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of an inpainter"):
        Inpainter.load_from_checkpoint("checkpoints/shapes_classifier.ckpt")


# Lightning's ModelCheckpoint, which is restored to a folder of the validation.
@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
def test_the_command_line_trains_it(tmp_path, capsys):
    data = {"image_size": [32, 32], "batch_size": 4, "train_images": 8, "val_images": 4}
    changes = {
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
        "model": {"init_args": {"network": SMALL}},
        "data": {"init_args": {**data, "num_workers": 0}},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(changes))
    files = ["-c", "configs/inpainters/shapes.yaml", "-c", str(tmp_path / "small.yaml")]
    out = ["--out", str(tmp_path / "run")]
    assert main(CLI, ["fit", *files, *out]) == 0
    path = tmp_path / "run" / "last.ckpt"
    assert Inpainter.load_from_checkpoint(path).cost["images"] == 8
    assert main(CLI, ["validate", *files, "--ckpt_path", str(path)]) == 0
    assert "val/harmonic_psnr" in capsys.readouterr().out
    assert main(CLI, ["fit", *files, *out]) == 2
    assert "holds another fit" in capsys.readouterr().err


def test_the_benchmark_prints_every_fill(tmp_path, monkeypatch, capsys):
    for name in range(3):
        Image.radial_gradient("L").rotate(name).save(tmp_path / f"{name}.png")
    fit = fit_trainer(tmp_path)
    fit.strategy.connect(small())
    fit.save_checkpoint(tmp_path / "new.ckpt")
    path = str(tmp_path / "new.ckpt")
    words = ["inpainting.py", str(tmp_path), "--size", "32", "--checkpoint", path]
    monkeypatch.setattr(sys, "argv", words)
    inpainting.main()
    rows = dict(line[2:].split(" | ", 1) for line in capsys.readouterr().out.splitlines()[3:])
    assert {"mean", "road", "harmonic", path} <= set(rows)
    scores = {name: row.rpartition(" | ")[0] for name, row in rows.items()}
    assert scores[path] == scores["harmonic"] != scores["mean"]
    monkeypatch.setattr(sys, "argv", ["inpainting.py", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="none"):
        inpainting.main()
