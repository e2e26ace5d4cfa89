import pytest
import torch
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.files import renew
from explainers.functional import fills, masking
from explainers.methods.constant import CentredGaussian
from explainers.methods.sloc import SLOC
from explainers.optimization import completeness
from explainers.perturbation import curves
from explainers.perturbation.curves import Curve
from tests import planted
from tests.support import save


class Linear(nn.Module):
    """The probability of class 0 is 0.2 + w . x, that of class 1 is 0.1, of images of 8 by 8."""

    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(0.01 * torch.rand(3, 8, 8, generator=generator) - 0.003)

    def forward(self, images):
        p = 0.2 + torch.einsum("chw,bchw->b", self.weight, images)
        rest = torch.full_like(p, 0.1)
        return torch.stack([p, rest, 0.9 - p], dim=1).log()


class Threshold(nn.Module):
    """Class 0 wherever the mean brightness is above 0.4, rather sharply."""

    num_classes = 2

    def forward(self, images):
        return torch.stack(
            [60 * (images.mean(dim=(1, 2, 3)) - 0.4), images.new_zeros(len(images))], 1
        )


def explain(model, mean=0.0, **arguments):
    explanandum = (
        model
        if isinstance(model, Explanandum)
        else Explanandum(model, mean=[mean] * 3, std=[1.0] * 3)
    )
    flat = {"masks": 20, "probability": 0.5} | arguments  # options of groups too
    plain = renew({"class_path": "explainers.methods.sloc.SLOC", "init_args": flat})
    return SLOC(explanandum, **plain["init_args"])


def first(count, classes=3):
    return F.one_hot(torch.zeros(count, dtype=torch.int64), classes).bool()


def noise(count=2, side=8, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def dense(sums):
    return torch.cat([group.pixels(0, len(group.kept)) for group in sums.groups])


def test_a_linear_classifier_s_map_is_its_weights_times_the_input():
    method = explain(Linear(), masks=600, steps=500, lambda1=0.0, lambda2=0.0)
    images = noise()
    found = method.attribute(images, first(2))
    expected = (method.explanandum.model.weight * images).sum(dim=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4 * float(expected.abs().max()))
    whole, (part,) = method.measure_responses(images, torch.zeros(2, 1, dtype=torch.int64))
    torch.testing.assert_close(part.sums(found), part.responses[:, 0], rtol=0, atol=3e-5)
    torch.testing.assert_close(found.sum(dim=(1, 2)), whole[:, 0], rtol=0, atol=3e-5)


@pytest.mark.parametrize("fill", ["mean", "black", "kernel_blur", "blur", "noise"])
def test_what_masks_hide_shows_the_fill(fill):
    method = explain(Linear(), 0.3, fill=fill)
    explanandum, images, classes = method.explanandum, noise(), torch.tensor([[0, 2], [1, 0]])
    generator = torch.Generator().manual_seed(0)
    hidden = fills.fill(fill, images, explanandum.mean, explanandum.std, generator)
    base = explanandum.probabilities(hidden.expand_as(images)).gather(1, classes)
    whole, _ = method.measure_responses(images, classes)
    torch.testing.assert_close(whole, explanandum.probabilities(images).gather(1, classes) - base)


def released(responses, pixels, start, steps):
    """The released optimiser: responses and map times numel(x), means in place of sums."""
    height, width = start.shape
    scale = 3 * height * width
    maps = (start * scale).requires_grad_()
    wanted = responses * scale
    optimizer = torch.optim.Adam([maps], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        gaps = (maps * pixels).sum(dim=(1, 2)) - wanted
        loss = (gaps**2 / (2 * pixels.sum(dim=(1, 2)) * height * width)).mean()
        loss = loss + 0.01 * maps.abs().mean()
        loss = loss + 0.1 * ((maps.diff(dim=0) ** 2).mean() + (maps.diff(dim=1) ** 2).mean())
        loss.backward()
        optimizer.step()
    return maps.detach() / scale, float(loss.detach()) / (9 * height * width)


def test_released_units_are_those_of_the_released_optimiser():
    method = explain(Linear(), solver="adam", steps=200)
    images, targets = noise(1), first(1)
    whole, (part,) = method.measure_responses(images, torch.zeros(1, 1, dtype=torch.int64))
    start, early, found = method.map_over_steps(images, targets, [0, 5, 200])[:, 0]
    assert float(start.sum()) == pytest.approx(float(whole))
    assert float(start.std() / start.mean()) == pytest.approx(0.2 / 3, rel=0.2)
    pixels, responses = dense(part.sums), part.responses[0, 0]
    for steps, maps in ((5, early), (200, found)):
        expected, _ = released(responses, pixels, start, steps)
        torch.testing.assert_close(maps, expected, rtol=0, atol=1e-3 * float(expected.std()))
    _, loss = released(responses, pixels, found, 1)
    ours = completeness.loss(method.gap(part.sums), found[None], part.responses[0])
    assert float(ours) == pytest.approx(loss, rel=1e-4)


def test_paper_units_are_those_of_the_formula_and_leave_nothing():
    method = explain(Linear(), units="paper")
    _, (part,) = method.measure_responses(noise(1), torch.zeros(1, 1, dtype=torch.int64))
    gap = method.gap(part.sums)
    assert (gap.l1, gap.tv) == (0.01, (0.1, 0.1))
    assert not method.attribute(noise(1), first(1)).any()
    assert explain(Linear()).attribute(noise(1), first(1)).all()


def test_admm_and_adam_come_to_the_same_map():
    images, targets = planted.scenes(2)
    settings = {"masks": 100, "sides": 56}
    adam, admm = (
        explain(planted.explanandum(), **settings, solver=s, steps=n).attribute(images, targets)
        for s, n in (("adam", 2000), ("admm", 40))
    )
    for a, b in zip(adam, admm, strict=True):
        assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.99


def counted(explanandum):
    batches = []
    explanandum.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    return batches


@pytest.mark.parametrize(
    ("arguments", "each", "once"),
    [
        ({}, 20 + 1, 1),
        ({"fill": "blur"}, 20 + 1 + 1, 0),
        ({"masks": 25, "sides": [20, 56, 90]}, 25 + 1, 1),
        ({"probability": None, "tuning_masks": 3}, 20 + 1 + 2 * 13 * 3, 1),
        ({"runs": 3}, 3 * (20 + 1), 3),
        ({"solver": "adam", "steps": 80, "monitor": True}, 20 + 1 + 3 * 20, 1),  # at 61, 76, 80
    ],
)
def test_forward_passes_are_counted(arguments, each, once):
    method = explain(planted.explanandum(), batch_size=8, **arguments)
    batches = counted(method.explanandum)
    images, targets = planted.scenes(3)
    method.attribute(images, targets)
    assert sum(batches) == 3 * each + once
    assert max(batches) == 8


def test_ten_classes_cost_the_forward_passes_of_one():
    method = explain(planted.explanandum(), probability=None, tuning_masks=3)
    batches = counted(method.explanandum)
    images, _ = planted.scenes(1)
    method.class_maps(images, torch.tensor([[2]]))
    one = len(batches), sum(batches)
    method.class_maps(images, torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 0, 1]]))
    assert (len(batches) - one[0], sum(batches) - one[1]) == one


def test_shared_responses_save_the_forward_passes():
    explanandum = planted.explanandum()
    batches = counted(explanandum)
    images, targets = planted.scenes(2)
    plain = explain(explanandum, lambda2=0.5).attribute(images, targets)
    explain(explanandum, share=True).attribute(images, targets)
    for changes, passes in (({"lambda2": 0.5}, 2 + 1), ({"lambda2": 0.5, "seed": 1}, 2 * 21 + 1)):
        batches.clear()
        found = explain(explanandum, share=True, **changes).attribute(images, targets)
        assert sum(batches) == passes
        assert torch.equal(found, plain) == ("seed" not in changes)


def test_an_image_keeps_its_probability_in_every_batch():
    images = torch.tensor([1.0, 0.55])[:, None, None, None].expand(-1, 3, 16, 16)
    method = explain(Threshold(), probability=None, sides=32, tuning_masks=200)
    maps = method.attribute(images, first(2, 2))
    for row in (0, 1):
        alone = method.attribute(images[row : row + 1], first(1, 2))
        torch.testing.assert_close(maps[row : row + 1], alone)


def test_each_side_has_its_probability_and_its_share_of_the_masks():
    method = explain(Linear(), masks=401, sides=[28, 84], probability=[0.2, 0.9])
    _, (part,) = method.measure_responses(noise(1), torch.zeros(1, 1, dtype=torch.int64))
    small, large = part.sums.groups
    assert (small.side, large.side) == (1, 3)  # 28 and 84 of 224 pixels, here of 8
    assert (len(small.kept), len(large.kept)) == (201, 200)
    assert small.areas().mean() / 64 == pytest.approx(0.2, abs=0.02)
    assert large.areas().mean() / 64 == pytest.approx(0.9, abs=0.03)


def test_sloc_m_is_the_snapshot_with_the_best_insertion_minus_deletion():
    images, targets = planted.scenes(2, (12, 12))
    settings = {"solver": "adam", "steps": 100, "lr": 1.0, "masks": 10}
    method = explain(planted.explanandum(), **settings, monitor=True)
    snapshots = explain(planted.explanandum(), **settings).map_over_steps(
        images, targets, [61, 76, 91, 100]
    )
    scores = []
    for maps in snapshots:
        runs = [Curve(order, steps=10) for order in ("least", "most")]
        least, most = curves.run(method.explanandum, images, maps, targets, runs)
        scores.append(curves.auc(least.probability) - curves.auc(most.probability))
    best = torch.stack(scores).argmax(dim=0)
    assert best.unique().numel() > 1 or best[0] != 3  # the choice is one
    found = method.attribute(images, targets)
    for row in (0, 1):
        torch.testing.assert_close(found[row], snapshots[best[row], row])


def test_aggregation_by_hand():
    maps = torch.tensor([[3.0, 1.0, 2.0], [-1.0, 4.0, 2.0], [7.0, 2.0, 2.0], [5.0, 8.0, 2.0]])
    assert masking.aggregate(maps, "mean").tolist() == [3.5, 3.75, 2.0]
    assert masking.aggregate(maps, "median").tolist() == [4.0, 3.0, 2.0]
    assert masking.aggregate(maps[:3], "median").tolist() == [3.0, 2.0, 2.0]
    assert masking.aggregate(maps, "min").tolist() == [-1.0, 1.0, 2.0]
    assert masking.aggregate(maps, "product").tolist() == pytest.approx([0.0, 64**0.25, 2.0])
    tiny = torch.tensor([[2e-7], [8e-7]]).repeat(10, 1)  # the plain product of 20 maps is 0
    assert masking.aggregate(tiny, "product").tolist() == pytest.approx([4e-7])


def test_runs_are_independent_and_the_first_is_that_of_a_single_run(monkeypatch):
    stacks = []
    keep = lambda maps, how: stacks.append((maps, how)) or maps[0]  # noqa: E731
    monkeypatch.setattr(masking, "aggregate", keep)
    images, targets = planted.scenes(2)
    explain(planted.explanandum(), runs=3, aggregation="min").attribute(images, targets)
    explain(planted.explanandum(), runs=2).attribute(images, targets)
    explain(planted.explanandum()).attribute(images, targets)
    (three, how), (two, _), (one, _) = stacks
    assert how == "min"
    assert torch.equal(three[:2], two)
    assert torch.equal(two[:1], one)
    assert not torch.allclose(three[1], three[2])


def test_runs_have_their_own_masks_and_noise(monkeypatch):
    images, classes = noise(1), torch.zeros(1, 1, dtype=torch.int64)
    method = explain(Linear(), runs=2, steps=0)
    runs = (method.measure_responses(images, classes, run)[1][0].sums for run in (0, 1))
    assert not torch.equal(*map(dense, runs))
    kept = []
    monkeypatch.setattr(masking, "aggregate", lambda maps, how: kept.append(maps) or maps[0])
    method.class_maps(images, classes)
    assert not torch.allclose(*kept[0])
    torch.testing.assert_close(*kept[0].flatten(1).sum(dim=1))


def test_map_over_steps_begins_at_the_start_and_ends_at_the_map():
    images, targets = planted.scenes(3)
    method = explain(planted.explanandum(), probability=None, tuning_masks=3, steps=5)
    shapes = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(3))
    found = method.map_over_steps(images, targets, [5, 0, 2], shapes)
    classes = targets.int().argmax(dim=1, keepdim=True)
    torch.testing.assert_close(found[0], method.class_maps(images, classes, shapes)[:, 0])
    whole, _ = method.measure_responses(images, classes)
    expected = shapes * (whole / shapes.sum(dim=(1, 2))[:, None])[:, :, None]
    torch.testing.assert_close(found[1], expected)
    shorter = explain(planted.explanandum(), probability=None, tuning_masks=3, steps=2)
    torch.testing.assert_close(found[2], shorter.class_maps(images, classes, shapes)[:, 0])
    with pytest.raises(ValueError, match=r"\[0, 5\]"):
        method.map_over_steps(images, targets, [6])
    with pytest.raises(ValueError, match="one-hot"):
        method.map_over_steps(images, targets | True, [1])


@pytest.fixture
def checkpoint(tmp_path):
    return save(CentredGaussian(planted.explanandum(), sigma=0.2), tmp_path / "start.ckpt")


def test_a_trained_explainer_s_map_starts_the_optimisation(checkpoint):
    images, targets = planted.scenes(2)
    explanandum = planted.explanandum()
    for solver in ("adam", "admm"):
        method = explain(explanandum, solver=solver, start=checkpoint)
        begin = method.map_over_steps(images, targets, [0])[0]
        bump = CentredGaussian(explanandum, sigma=0.2).attribute(images, targets)
        torch.testing.assert_close(
            begin, bump * (begin.sum((1, 2)) / bump.sum((1, 2)))[:, None, None]
        )
    assert method.start.explanandum is explanandum


def test_a_start_of_another_classifier_is_refused(checkpoint):
    explanandum = planted.explanandum()
    with torch.no_grad():
        explanandum.model.stem.weight.mul_(2)
    before = explanandum.model.stem.weight.clone()
    with pytest.raises(ValueError, match="another classifier"):
        explain(explanandum, start=checkpoint)
    assert torch.equal(explanandum.model.stem.weight, before)


def test_half_precision_around_it_leaves_the_optimisation_alone():
    images, classes = noise(1, 16), torch.tensor([[0]])
    method = explain(Threshold(), sides=32)
    plain = method.class_maps(images, classes)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(method.class_maps(images, classes), plain)


def test_several_targets_are_merged():
    images, _ = planted.scenes(1)
    targets = torch.tensor([[True, True, False, False]])
    method = explain(planted.explanandum(multi_label=True), masks=50)
    maps = masking.minmax(method.class_maps(images, torch.tensor([[0, 1]]))[0])
    torch.testing.assert_close(method.attribute(images, targets)[0], maps.amax(dim=0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"masks": 1}, "a mask a side"),
        ({"sides": []}, "at least one side"),
        ({"sides": 0}, "positive"),
        ({"probability": 0.0}, r"\(0, 1\]"),
        ({"probability": [0.5]}, "one for each"),
        ({"fill": "images"}, "fill must be"),
        ({"solver": "sgd"}, "name must be one of"),
        ({"units": "ours"}, "units must be"),
        ({"aggregation": "max"}, "aggregation must be"),
        ({"monitor": True}, "the name 'adam'"),
        ({"lambda1": -1.0}, "negative"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        explain(Linear(), **wrong)
