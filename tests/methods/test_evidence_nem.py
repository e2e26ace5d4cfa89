import pytest
import torch

from explainers.explanandum.gradients import stage_evidence
from explainers.functional.losses import log_odds
from explainers.functional.soft_masks import soft_masks, stratified_shares
from explainers.methods.evidence_nem import EvidenceNEM
from explainers.methods.lattice import Lattice
from explainers.optimization import areas
from tests import planted

SIZE = (32, 32)


def loss(method, images, seed=0):
    terms = method.loss_terms({"image": images}, torch.Generator().manual_seed(seed))
    return {name: value.detach() for name, value in terms.items()}


def test_the_loss_by_hand():
    """With one fill of each kind, from the masks on."""
    chances = {"insertion": {"mean": 1.0}, "deletion": {"black": 1.0}}
    method = EvidenceNEM(
        planted.explanandum(), samples=2, estimator={**chances, "temperature": 2.0}
    ).eval()
    explanandum = method.explanandum
    images, _ = planted.scenes(4, SIZE, seed=3)
    found = loss(method, images)
    generator = torch.Generator().manual_seed(0)
    images = torch.cat([images, images])
    classes = explanandum(images).argmax(1)
    scores = method.class_maps(images, classes[:, None])[:, 0].detach()
    expected = {}
    for name, fill in (("insertion", explanandum.mean), ("deletion", torch.zeros(1, 3, 1, 1))):
        masks = soft_masks(scores, stratified_shares(8, generator))[:, None]
        torch.multinomial(torch.ones(1), 8, replacement=True, generator=generator)  # the fills
        kept = masks if name == "insertion" else 1 - masks
        odds = log_odds(explanandum(fill + (images - fill) * kept), classes, False)
        expected[name] = (odds / 2).sigmoid().mean()
    torch.testing.assert_close(found["insertion"], 1 - expected["insertion"])
    torch.testing.assert_close(found["deletion"], expected["deletion"])


def test_the_truth_has_a_lower_loss_than_its_opposite():
    method = EvidenceNEM(planted.explanandum())
    images, targets = planted.scenes(16, SIZE, seed=3)
    quadrants = (planted.quadrant_masks(*SIZE)[targets.int().argmax(1)]).float()
    losses = []
    for sign in (1, -1):
        method.network.forward = lambda seen, size, s=sign: s * 2 * quadrants
        losses.append(sum(loss(method, images).values()))
    assert losses[0] < losses[1] - 0.5


def test_each_image_draws_a_fill_of_its_own():
    method = EvidenceNEM(planted.explanandum())
    images = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    filled = areas.own_fills(
        method.explanandum, method.estimator, "deletion", images, torch.Generator().manual_seed(0)
    )
    flat = filled.flatten(2).std(dim=2).amax(1) < 1e-6  # the mean
    assert 0.4 < flat.float().mean() < 0.8  # .6 is expected, with a deviation of .06
    noise = [each for each in filled[~flat] if each.min() < -0.2 or each.max() > 1.2]
    assert all(not torch.equal(noise[0], each) for each in noise[1:])


@pytest.mark.parametrize(
    ("estimator", "told"),
    [
        ({"insertion": {"mean": 0.5}}, "insertion must be >= 0 with sum 1"),
        ({"deletion": {}}, "deletion must be >= 0 with sum 1"),
        ({"deletion": {"mean": 1.5, "noise": -0.5}}, "deletion must be >= 0"),
        ({"sharpness": 0.0}, "must be positive"),
        ({"temperatur": 1.0}, "unknown option 'temperatur'"),
    ],
)
def test_options_are_checked(estimator, told):
    with pytest.raises(ValueError, match=told):
        EvidenceNEM(planted.explanandum(), estimator=estimator)


@pytest.mark.parametrize("options", [{"looks": 0}, {"looks": 3}, {"samples": 0}, {"cell": 0}])
def test_looks_and_samples_are_checked(options):
    with pytest.raises(ValueError, match="looks"):
        EvidenceNEM(planted.explanandum(), **options)


def test_the_second_look_shows_the_first_pixels_of_the_lattice():
    """Its gradients are those of that image, times what the whole image has beyond it."""
    method = EvidenceNEM(planted.explanandum())
    explanandum, (images, targets) = method.explanandum, planted.scenes(3, SIZE, seed=2)
    scores = Lattice(explanandum).attribute(images, targets)
    blurred = explanandum.fill("kernel_blur")(images)
    part = blurred + (images - blurred) * soft_masks(scores, torch.full((3,), 0.4))[:, None]
    classes = targets.int().argmax(1, keepdim=True)
    ((first, second),), _ = method.look(explanandum, images, classes)
    (of_part,), _ = stage_evidence(explanandum, part, classes)
    for values, products, whole, own in zip(
        second.values, second.products, first.values, of_part.products, strict=True
    ):
        gradients = torch.where(values == 0, torch.nan, own / values)
        expected = (whole - values) * gradients
        known = ~expected.isnan()
        assert known.float().mean() > 0.2
        torch.testing.assert_close(products[known], expected[known], rtol=1e-3, atol=1e-6)


def test_untrained_with_one_look_it_is_the_lattice():
    method = EvidenceNEM(planted.explanandum(), looks=1).eval()
    images, targets = planted.scenes(3, SIZE, seed=2)
    torch.testing.assert_close(
        method.attribute(images, targets).detach(),
        Lattice(method.explanandum).attribute(images, targets),
    )


def test_cells_average_the_finished_map():
    fine, coarse = (EvidenceNEM(planted.explanandum(), cell=cell) for cell in (1, 8))
    coarse.load_state_dict(fine.state_dict())
    images, targets = planted.scenes(2, SIZE, seed=3)
    maps, smooth = (each.attribute(images, targets).detach() for each in (fine, coarse))
    cells = maps.view(2, 4, 8, 4, 8).mean(dim=(2, 4))
    # Half a cell from a border, bilinear interpolation has reached the outermost cells.
    torch.testing.assert_close(smooth[:, :4, :4], cells[:, :1, :1].expand(-1, 4, 4))
    across = cells[:, 0, 0] * 0.5625 + cells[:, 0, 1] * 0.4375  # 3.5 of 8 pixels on the way
    torch.testing.assert_close(smooth[:, 0, 7], across)
