import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.explanandum.gradients import pyramid_maps
from explainers.explanandum.taps import counted
from explainers.functional import masking, smoothing
from explainers.methods.nem_t import NEMt
from explainers.methods.nem_u import NEMU
from explainers.methods.ra_nem import RaNEM, draw_other_class
from explainers.metrics.faithfulness import RISECurves
from tests import planted

SMALL = {"network": {"widths": [16, 16, 16, 16]}}
PLAIN = {"network": SMALL["network"] | {"block": "plain", "dropout": 0.0}}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(kind="cnn", **arguments):
    torch.manual_seed(0)
    return RaNEM(planted.explanandum(kind), **SMALL | arguments)


def train(method, steps, batch=8):
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    method.train()
    for step in range(steps):
        images, _ = planted.scenes(batch, seed=step + 1)
        loss = sum(method.loss_terms({"image": images}, seeded(step)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return method.eval()


def shares(maps):
    """Share of each map's mass in each quadrant, (B, 4)."""
    mass = (maps - maps.amin(dim=(1, 2), keepdim=True))[:, None] * planted.quadrant_masks(32, 32)
    return mass.sum(dim=(2, 3)) / mass.sum(dim=(1, 2, 3))[:, None]


@pytest.mark.parametrize("loss", ["row", "crossed"])
def test_the_loss_is_the_mean_distance_of_the_masked_images(loss):
    method = make(samples=2, loss=loss)
    images, targets = planted.scenes(3)
    shown = torch.rand(3, 2, 3, 32, 32, generator=seeded())
    method.masked = lambda *_: (shown, None)
    distance = method.loss_terms({"image": images}, seeded())["distance"]
    p = method.explanandum.probabilities(shown.flatten(0, 1))  # (6, 4)
    target = targets.int().argmax(dim=1).tolist()
    rows = [[1 - p[2 * i + s, target[i]].item() for s in range(2)] for i in range(3)]
    crossed = [1 - p[r, target[c // 2]].item() for r in range(6) for c in range(6)]
    expected = sum(map(sum, rows)) / 6 if loss == "row" else sum(crossed) / 36
    assert distance.item() == pytest.approx(expected, rel=1e-5)


def test_masked_images_keep_k_pixels_and_show_one_fill():
    method = make(samples=5, fills=["black", "mean"])
    method.explanandum.mean.fill_(0.25)
    images = torch.ones(40, 3, 16, 16)
    shown, _ = method.masked(images, torch.randn(40, 16, 16, generator=seeded()), seeded())
    assert shown.shape == (40, 5, 3, 16, 16)
    kept = (shown == 1).all(dim=2).sum(dim=(2, 3))  # (40, 5)
    for part in range(5):
        assert kept[:, part].min() >= 256 * part // 5
        assert kept[:, part].max() <= math.ceil(256 * (part + 1) / 5)
    assert kept.unique().numel() > 50  # every image has its own k ...
    fills = shown.amin(dim=(2, 3, 4))  # ... and its own fill, the same for all its k
    assert set(fills[:, :4].unique().tolist()) == {0.0, 0.25}
    assert (fills[:, :4].std(dim=1) == 0).all()

    method = make(samples=5, fills=["black", "mean"], selection={"draw": "batch"})
    method.explanandum.mean.fill_(0.25)
    shown, _ = method.masked(images, torch.randn(40, 16, 16, generator=seeded()), seeded())
    assert (shown == 1).all(dim=2).sum(dim=(2, 3)).unique().numel() == 5
    assert shown[:, :4].amin(dim=(2, 3, 4)).unique().numel() == 1


def test_the_published_fills_are_zero_blur_and_noise():
    method = make(samples=1, selection={"draw": "image"})
    images = torch.rand(60, 3, 16, 16, generator=seeded())
    shown = method.masked(images, torch.zeros(60, 16, 16), seeded())[0][:, 0]
    mean, std = method.explanandum.mean, method.explanandum.std
    blur = smoothing.kernel_blur(images, mean)
    found = {"zero": 0, "blur": 0, "noise": 0}
    for image, smooth, result in zip(images, blur, shown, strict=True):
        gone = (result - image).abs().amax(dim=0) > 1e-6
        name = "noise"
        if torch.allclose(result[:, gone], smooth[:, gone], atol=1e-5):
            name = "blur"
        elif (result[:, gone] == 0).all():
            name = "zero"
        found[name] += 1
    assert min(found.values()) >= 10
    assert std.eq(1).all()  # in units of which the noise has variance 1


def test_a_step_needs_two_forward_passes_and_one_backward():
    method = make(samples=6)
    method.log = method.log_dict = lambda *args, **kwargs: None  # there is no trainer
    images, _ = planted.scenes(4)
    sizes = []
    stem = method.explanandum.model.stem
    stem.register_forward_hook(lambda *arguments: sizes.append(len(arguments[2])))
    with counted(method.explanandum.model) as counts:
        method._step({"image": images}, "val", 0).backward()
    assert sizes == [4, 24]  # features and prediction at once; all k at once
    assert counts == [4 + 24, 24]
    assert all(p.grad is None for p in method.explanandum.parameters())
    assert all(p.grad is not None for p in method.network.parameters())


def test_a_gain_multiplies_the_scores():
    images, _ = planted.scenes(2)
    with torch.no_grad():
        one, ten = (make(gain=gain).eval()(images) for gain in (1.0, 10.0))
    torch.testing.assert_close(ten, 10 * one)


def test_labels_are_not_used():
    method = make().eval()  # without dropout
    images, targets = planted.scenes(4)
    losses = [
        method.loss_terms(batch, seeded())["distance"].item()
        for batch in (
            {"image": images},
            {"image": images, "target": targets},
            {"image": images, "target": targets.roll(1, 1)},
        )
    ]
    assert losses[0] == losses[1] == losses[2]


def test_every_second_masked_image_lacks_the_first_pixels():
    method = make(samples=4, fills=["black"], deletion=True)
    images, ranking = torch.ones(20, 3, 16, 16), torch.arange(256.0).flip(0).view(16, 16)
    shown, removed = method.masked(images, 1e6 * ranking.expand(20, -1, -1), seeded())
    assert (removed[:, 1:] != removed[:, :-1]).all()
    assert len(removed[:, 0].unique()) == 2
    first = (shown[:, :, 0, 0, 0] == 1).logical_not()  # the best pixel is gone
    assert torch.equal(first, removed)
    changes = shown[:, :, 0].flatten(2).diff(dim=2).ne(0).sum(dim=2)
    assert changes.max() == 1  # the rest is of one piece
    assert not make().masked(images, torch.zeros(20, 16, 16), seeded())[1].any()


def test_a_deletion_is_to_lose_the_class():
    method = make(samples=2, deletion=True)
    images, targets = planted.scenes(2)
    shown = torch.rand(2, 2, 3, 32, 32, generator=seeded())
    method.masked = lambda *_: (shown, torch.tensor([[True, False], [False, True]]))
    p = method.explanandum.probabilities(shown.flatten(0, 1))[targets.repeat_interleave(2, dim=0)]
    expected = (p[0] + (1 - p[1]) + (1 - p[2]) + p[3]).item() / 4
    distance = method.loss_terms({"image": images}, seeded())["distance"]
    assert distance.item() == pytest.approx(expected, rel=1e-5)


def test_a_start_is_what_an_untrained_network_shows_and_sees():
    method = make(start="pyramid_cam", gain=3.0).eval()
    images, _ = planted.scenes(4)
    classes = torch.arange(4).expand(4, 4)
    beginning = 3 * pyramid_maps(method.explanandum, images, classes)
    with torch.no_grad():
        torch.testing.assert_close(method.class_maps(images, classes), beginning)
        nn.init.ones_(method.network.head.weight)
        added = method.class_maps(images, classes) - beginning
    assert (added[:, 0] - added[:, 1]).abs().max() > 0.1  # it knows which class is asked for
    with counted(method.explanandum.model) as counts:
        method.class_maps(images, classes)
    assert counts == [4 + 4, 4 * 4]  # features and the starts of all classes; a gradient each
    with torch.no_grad():
        torch.testing.assert_close(method(images, classes[:, 2]) - beginning[:, 2], added[:, 2])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"selection": {"shared_noise": True, "sampling": "uniform"}},
        {"start": "pyramid_cam", "deletion": True},
    ],
)
def test_it_finds_the_quadrant_that_decides(options):
    method = train(make("vit", samples=3, **options), steps=50, batch=4)
    images, targets = planted.scenes(4, seed=999)
    with torch.no_grad():
        maps = method.attribute(images, targets)
        faithfulness = RISECurves(steps=8).score(images, maps, targets, method.explanandum)
    assert shares(maps)[targets].mean() > 0.5  # of chance 1/4
    assert faithfulness["Faithfulness"].mean() > 0.5


def test_a_conditioned_one_explains_any_class():
    method = train(make("vit", samples=4, class_conditioned=True, **PLAIN), steps=120)
    images, _ = planted.scenes(4, seed=999)
    with torch.no_grad():
        maps = method.class_maps(images, torch.arange(4).expand(4, 4))
        one = method.attribute(images, F.one_hot(torch.tensor([1] * 4), 4).bool())
        two = method.attribute(images, torch.tensor([[True, True, False, False]] * 4))
    found = torch.stack([shares(part) for part in maps.unbind(1)], dim=1)  # image, asked, quadrant
    own = found.diagonal(dim1=1, dim2=2)
    assert (own > (found.sum(dim=1) - own) / 3 + 0.05).all()  # more than when another is asked for
    assert (found.argmax(dim=2) == torch.arange(4)).float().mean() >= 0.85
    torch.testing.assert_close(maps[:, 1], one)
    scaled = masking.minmax(maps[:, :2].flatten(0, 1)).view(4, 2, 32, 32)
    torch.testing.assert_close(two, scaled.amax(dim=1))


def test_the_other_class_is_one_and_a_likely_one():
    probabilities = torch.tensor([[0.6, 0.36, 0.04, 0.0]]).repeat(4000, 1)
    drawn = draw_other_class(probabilities, torch.zeros(4000, dtype=torch.int64), seeded())
    share = torch.bincount(drawn, minlength=4) / 4000
    torch.testing.assert_close(share, torch.tensor([0, 0.75, 0.25, 0]), rtol=0, atol=0.02)


def test_another_class_than_the_predicted_one_is_warned_of_once():
    method = make().eval()
    images, targets = planted.scenes(2)
    predicted = method.attribute(images, targets)  # any warning would be an error here
    with pytest.warns(UserWarning, match="Ra-NEM explains the predicted class only"):
        other = method.attribute(images, targets.roll(1, 1))
    assert torch.equal(other, predicted)
    method.attribute(images, targets.roll(1, 1))
    assert not method.class_specific
    assert make(class_conditioned=True).class_specific


def test_an_unsupervised_delta_compares_representations():
    method = make(samples=2, delta="unsupervised", layer="stages.3")
    images, targets = planted.scenes(2)
    shown = torch.rand(2, 2, 3, 32, 32, generator=seeded())
    method.masked = lambda *_: (shown, None)
    level = method.explanandum.features(images)[3].mean(dim=(2, 3))
    seen = method.explanandum.features(shown.flatten(0, 1))[3].mean(dim=(2, 3)).view(2, 2, 4)
    cosine = (level[:, None] * seen).sum(-1) / (level.norm(dim=-1)[:, None] * seen.norm(dim=-1))
    expected = ((1 - cosine) / 2).mean().item()
    distance = method.loss_terms({"image": images}, seeded())["distance"].item()
    assert distance == pytest.approx(expected, rel=1e-5)
    method.attribute(images, targets.roll(1, 1))  # it has no class to warn of


def test_it_trains_in_half_precision():
    method = make()
    images, _ = planted.scenes(4)
    exact = method.loss_terms({"image": images}, seeded())["distance"]
    method.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = method.loss_terms({"image": images}, seeded())["distance"]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), abs=0.05)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in method.network.parameters())


def test_prodigy_is_annealed_by_epoch_and_at_half_its_rate_after_ten():
    method = make()
    made = method.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert (type(optimizer).__name__, made["lr_scheduler"]["interval"]) == ("Prodigy", "epoch")
    (group,) = optimizer.param_groups
    assert set(group["params"]) == set(method.network.parameters())
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(1), 1e-4)
    for _ in range(10):
        optimizer.step()
        schedule.step()
    assert group["lr"] == pytest.approx(0.5, rel=1e-3)


NETWORKS = [
    make,
    lambda: make("vit", class_conditioned=True, **PLAIN),
    lambda: NEMU(planted.explanandum(), **SMALL),
    lambda: NEMt(planted.explanandum(), **SMALL),
    lambda: RaNEM(Explanandum("test_vit", num_classes=3), network={"widths": [8] * 5}),
]


@pytest.mark.parametrize("number", range(5))
def test_the_trained_network_is_one_graph_from_images_to_maps(number):
    method = NETWORKS[number]().eval()
    size = method.explanandum.input_size
    example = (torch.rand(1, 3, *size),)
    if method.class_specific:
        example += (torch.tensor([2]),)
    graph = torch.export.export(method, example).module()
    images = torch.rand(1, 3, *size)
    targets = method.explanandum.predict(images)
    if method.class_specific:
        targets = F.one_hot(example[1], 4).bool()
    with torch.no_grad():
        torch.testing.assert_close(
            graph(images, *example[1:]), method.attribute(images, targets), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("number", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 4))])
def test_onnx_gives_the_same_maps(number, tmp_path):
    pytest.importorskip("onnxscript", reason="install the extra onnx")
    runtime = pytest.importorskip("onnxruntime", reason="install the extra onnx")
    method = NETWORKS[number]().eval()

    def inputs(batch):
        images = torch.rand(batch, 3, *method.explanandum.input_size, generator=seeded())
        return {"images": images} | (
            {"classes": torch.arange(batch) % 4} if method.class_specific else {}
        )

    example, wanted = inputs(2), inputs(5)
    shapes = {name: {0: torch.export.Dim.DYNAMIC} for name in example}  # any batch
    program = torch.onnx.export(
        method, kwargs=example, dynamo=True, dynamic_shapes=shapes, verbose=False
    )
    program.save(tmp_path / "explainer.onnx")
    session = runtime.InferenceSession(tmp_path / "explainer.onnx")
    found = session.run(None, {name: value.numpy() for name, value in wanted.items()})[0]
    predicted = method.explanandum.predict(wanted["images"]).int().argmax(dim=1)
    classes = wanted.get("classes", predicted)
    with torch.no_grad():
        expected = method.class_maps(wanted["images"], classes[:, None])[:, 0]
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"samples": 0}, "samples"),
        ({"gain": 0.0}, "gain"),
        ({"fills": ["mean", "pink"]}, "pink"),
        ({"fills": ["images"]}, "images"),
        ({"loss": "diagonal"}, "loss must be one of"),
        ({"optimizer": "sgd"}, "optimizer must be a dict of some of name, lr"),
        ({"network": {"block": "dense"}}, "block must be one of"),
        ({"selection": {"draws": "image"}}, "unknown option 'draws'"),
        ({"delta": "unsupervised", "loss": "crossed"}, "no classes"),
        ({"delta": "unsupervised", "class_conditioned": True}, "no classes"),
        ({"delta": "unsupervised", "start": "pyramid_cam"}, "no classes"),
        ({"start": "saliency"}, "start must be one of"),
        ({"deletion": True, "loss": "crossed"}, "loss: row"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        make(**wrong)
