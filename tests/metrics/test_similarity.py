import numpy as np
import pytest
import torch
from scipy import stats
from skimage.feature import hog as reference_hog
from skimage.metrics import structural_similarity

from explainers.base import Explainer
from explainers.methods.constant import CentredGaussian, Constant, Random
from explainers.metrics.similarity import MapSimilarity, changed, hog, pearson, spearman, ssim
from tests import planted

MAPS = torch.rand(5, 48, 64, generator=torch.Generator().manual_seed(0))


def measure(explainer, count=2, size=(32, 32), **arguments):
    images, targets = planted.scenes(count, size)
    maps = explainer.attribute(images, targets)
    inputs = {"images": images, "targets": targets, "maps": maps, "explainer": explainer}
    return MapSimilarity(**arguments).measure(**inputs)


class Signed(Explainer):
    """The noise of `Random` in [-5, 5), which is no mask."""

    def attribute(self, images, targets):
        return 10 * Random(self.explanandum, self.seed).attribute(images, targets) - 5


def test_rank_correlation_agrees_with_scipy():
    a, b = MAPS.mul(9).round(), MAPS.roll(1, 0).mul(4).round() + MAPS  # with ties
    expected = [
        stats.spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(spearman(a, b).numpy(), expected, atol=1e-12)
    assert spearman(a, torch.ones_like(a)).isnan().all()
    assert spearman(a, a * torch.nan).isnan().all()


def test_correlation_agrees_with_numpy():
    a, b = MAPS.double().flatten(1).numpy(), MAPS.double().roll(1, 0).flatten(1).numpy()
    expected = [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(pearson(a, b), expected, atol=1e-12)


def test_structure_and_gradients_are_scikit_images():
    a, b = MAPS, MAPS.roll(1, 0)
    expected = [
        structural_similarity(x, y, win_size=5, data_range=1.0)
        for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True)
    ]
    np.testing.assert_array_equal(ssim(a, b, 1.0).numpy(), expected)
    features = reference_hog(MAPS[0].double().numpy(), pixels_per_cell=(16, 16))
    np.testing.assert_array_equal(hog(MAPS)[0], features)
    assert features.shape == (1 * 2 * 9 * 9,)
    assert hog(MAPS[:, :15]).shape == (5, 0)
    assert hog(MAPS[:, :40]).shape == (5, 1 * 2 * 2 * 3 * 9)  # two rows of cells


def test_all_pairs_of_seeds_by_hand():
    seeds, explainer = [3, 4, 5], Random(planted.explanandum())
    found = measure(explainer, seeds=seeds)
    images, targets = planted.scenes(1, (32, 32))
    maps = [Random(planted.explanandum(), s).attribute(images, targets)[0].double() for s in seeds]
    pairs = [(maps[i].numpy(), maps[j].numpy()) for i, j in ((0, 1), (0, 2), (1, 2))]
    rho = np.mean([stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in pairs])
    like = np.mean([structural_similarity(a, b, win_size=5, data_range=1.0) for a, b in pairs])
    hogs = [
        [reference_hog(m, pixels_per_cell=(16, 16), cells_per_block=(2, 2)) for m in p]
        for p in pairs
    ]
    correlation = np.mean([np.corrcoef(*h)[0, 1] for h in hogs])
    expected = {"SSIM": like, "HOG": correlation, "Spearman": rho}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].numpy(), [value] * 2, atol=1e-12)
    assert explainer.seed == 0


def test_maps_that_are_no_masks_are_scaled_to_their_largest_magnitude():
    images, targets = planted.scenes(1, (32, 32))
    a, b = (Signed(planted.explanandum(), s).attribute(images, targets).double() for s in (0, 1))
    a, b = (m[0].numpy() / m.abs().max().item() for m in (a, b))
    expected = structural_similarity(a, b, win_size=5, data_range=2.0)
    assert measure(Signed(planted.explanandum()), seeds=[0, 1])["SSIM"][0].item() == pytest.approx(
        expected, abs=1e-9
    )


def test_settings_are_varied_and_put_back():
    explainer = CentredGaussian(planted.explanandum(), sigma=0.5)
    variants = [{"sigma": 0.2}, {"sigma": 0.4}]
    found = measure(explainer, variants=variants)
    assert found["Spearman"].min() > 0.999  # one order at any width
    assert found["SSIM"].max() < 0.9
    assert explainer.sigma == 0.5
    values = measure(Random(planted.explanandum()), variants=variants)
    assert all(column.isnan().all() for column in values.values())  # it has no sigma
    with (
        pytest.raises(ValueError, match="Random has no setting 'sigma'"),
        changed(Random(planted.explanandum()), {"sigma": 1}),
    ):
        pass


def test_settings_are_put_back_after_an_error():
    explainer = Random(planted.explanandum(), seed=9)
    with pytest.raises(KeyError), changed(explainer, {"seed": 1}):
        raise KeyError
    assert explainer.seed == 9


def test_the_same_map_is_perfect_and_the_given_map_is_not_made_twice():
    calls = []

    class Counted(CentredGaussian):
        def attribute(self, images, targets):
            calls.append(self.seed)
            return super().attribute(images, targets)

    values = measure(Counted(planted.explanandum()), seeds=[0, 1, 2])
    assert calls == [0, 1, 2]
    for column in values.values():
        torch.testing.assert_close(column, torch.ones(2, dtype=torch.double))
    assert MapSimilarity(seeds=[0, 1]).direction("SSIM")


def test_constant_maps_have_no_correlation():
    values = measure(Constant(planted.explanandum()), seeds=[0, 1])
    assert values["SSIM"].tolist() == [1, 1]
    assert values["HOG"].isnan().all()
    assert values["Spearman"].isnan().all()


def test_runs_must_be_given_once_and_be_several():
    for wrong in ({}, {"seeds": [0, 1], "variants": [{}]}):
        with pytest.raises(ValueError, match="either"):
            MapSimilarity(**wrong)
    with pytest.raises(ValueError, match="two runs"):
        MapSimilarity(seeds=[0])
