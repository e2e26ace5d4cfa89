import math

import pytest
import torch

from explainers.functional.smooth_masks import smooth_masks, torchray_masks


def brute_force(parameters, size, spacing, sigma):
    """The smooth maximum of one grid, pixel by pixel."""
    rows, columns = parameters.shape
    near = torch.arange(-1 - math.ceil(sigma / spacing), 2 + math.ceil(sigma / spacing))
    values = []
    for y in range(size[0]):
        for x in range(size[1]):
            i, j = y // spacing + near, x // spacing + near
            down, across = (i + 0.5) * spacing - (y + 0.5), (j + 0.5) * spacing - (x + 0.5)
            distance = torch.hypot(down.double()[:, None], across.double())
            kernel = (-2 * (distance / sigma - 0.5).clamp(min=0).square()).exp()
            f = kernel * parameters[i.clamp(0, rows - 1)][:, j.clamp(0, columns - 1)]
            values.append((f * (20 * f).exp()).sum() / (20 * f).exp().sum())
    return torch.stack(values).view(size)


@pytest.mark.parametrize(("spacing", "sigma"), [(2, 3.0), (1, 2.0), (3, 2.5)])
def test_masks_and_their_gradients_are_the_formula(spacing, sigma):
    size = (5, 4)
    generator = torch.Generator().manual_seed(0)
    grid = (-(-size[0] // spacing), -(-size[1] // spacing))
    parameters = torch.rand(2, 1, *grid, generator=generator).double().requires_grad_()
    found = smooth_masks(parameters, size, spacing, sigma)[:, 0]
    expected = torch.stack([brute_force(p[0], size, spacing, sigma) for p in parameters])
    weights = torch.rand(expected.shape, generator=generator)
    torch.testing.assert_close(found, expected)
    pulls = [torch.autograd.grad((weights * x).sum(), parameters)[0] for x in (found, expected)]
    torch.testing.assert_close(*pulls)


def torchray_by_pixels(parameters, size, spacing, sigma):
    """TorchRay's masks: the parameter (i, j) lies at the pixel (spacing i, spacing j), or is 0."""
    reach, values = 1 + math.ceil(sigma / spacing), []
    near = torch.arange(-reach, reach + 1)
    wide = torch.nn.functional.pad(parameters, [50] * 4)
    for y in range(-sigma, size[0]):
        for x in range(-sigma, size[1]):
            i, j = y // spacing + near, x // spacing + near
            distance = torch.hypot((i * spacing - y).double()[:, None], (j * spacing - x).double())
            f = (-2 * (distance / sigma - 0.5).clamp(min=0).square()).exp()
            f = f * wide[i + 50][:, j + 50]
            values.append((f * (20 * f).flatten().softmax(dim=0).view_as(f)).sum())
    return torch.stack(values).view(size[0] + sigma, size[1] + sigma)


@pytest.mark.parametrize(("spacing", "sigma"), [(2, 4), (1, 3)])  # sigma a multiple of spacing
def test_torchray_masks_are_its_formula_with_a_border(spacing, sigma):
    size = (6, 8)
    grid = (size[0] // spacing, size[1] // spacing)
    parameters = torch.rand(grid, generator=torch.Generator().manual_seed(0)).double()
    found = torchray_masks(parameters[None, None], spacing, sigma)[0, 0]
    expected = torchray_by_pixels(parameters, size, spacing, sigma)
    torch.testing.assert_close(found[: size[0] + sigma, : size[1] + sigma], expected)
    assert found[0].max() < 0.7 * found[sigma].max()  # the border fades


def test_torchray_masks_are_those_of_its_package():
    name = "torchray.attribution.extremal_perturbation"
    package = pytest.importorskip(name, reason="not installed", exc_type=ImportError)
    for size, spacing, sigma in (((224, 224), 7, 21), ((50, 37), 4, 11)):
        generator = package.MaskGenerator(size, spacing, sigma)
        parameters = torch.rand(1, 1, *generator.shape_in)
        found = torchray_masks(parameters, spacing, sigma).clamp(max=1)
        torch.testing.assert_close(found, generator.generate(parameters)[1], rtol=0, atol=1e-5)


def test_a_constant_grid_favours_no_place():
    masks = smooth_masks(torch.ones(1, 1, 5, 4), (10, 8), 2, 6.0)[0, 0]
    torch.testing.assert_close(masks[::2, ::2], masks[0, 0].expand(5, 4), rtol=0, atol=1e-6)


def test_masks_do_not_depend_on_how_the_work_is_parted():
    parameters = torch.rand(1, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    together = smooth_masks(parameters, (224, 224), 7, 21.0)
    assert together.numel() * 81 > 100 * 2**17
    alone = smooth_masks(parameters[:, 3:4, 20:, 20:], (84, 84), 7, 21.0)
    inner = slice(35, 84)  # five cells from the edge of the part
    torch.testing.assert_close(alone[:, 0, inner, inner], together[:, 3, 175:, 175:])
