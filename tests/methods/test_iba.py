import math

import pytest
import torch
from lightning.pytorch import Trainer
from skimage import transform
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F
from torch.utils.data import DataLoader

import explainers
from explainers import Explanandum
from explainers.methods.iba import IBA, information
from tests import planted


class Corner(nn.Module):
    """The first feature, at half the resolution, decides by its mean over the corner.

    `skip` lets the blue channel past the features.
    """

    num_classes = 2

    def __init__(self, scale: float = 20.0, skip: float = 0.0) -> None:
        super().__init__()
        self.scale, self.skip = scale, skip
        self.features = nn.AvgPool2d(2)
        self.after = nn.Identity()

    def forward(self, images):
        corner = self.after(self.features(images))[:, 0, :2, :2].mean(dim=(1, 2))
        return torch.stack([self.scale * corner, self.skip * images[:, 2].mean(dim=(1, 2))], dim=1)


def corner(scale: float = 20.0, skip: float = 0.0, multi_label: bool = False) -> Explanandum:
    """Normalised images lie in [-1, 1]."""
    return Explanandum(
        Corner(scale, skip),
        multi_label=multi_label,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        input_size=[12, 16],
    )


def photographs(count: int, seed: int = 0, size: tuple[int, int] = (12, 16)) -> torch.Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def ready(explanandum=None, **arguments) -> IBA:
    method = IBA(corner() if explanandum is None else explanandum, "features", **arguments)
    method.estimate(photographs(200))
    return method


def test_information_is_where_the_evidence_is():
    image = torch.full((1, 3, 12, 16), 0.7)
    found = ready(sigma=0.0, steps=30).class_maps(image, torch.tensor([[0, 1]]))[0]
    bits = 4 * F.avg_pool2d(found[:, None], 2)[:, 0]  # of each feature's place, about
    assert bits[0, :2, :2].min() > 0.5
    assert bits[0, 3:].max() < 1e-3  # beyond what the resizing smears
    assert bits[0, :, 3:].max() < 1e-3
    assert bits[1].max() < 1e-3  # against the evidence, noise is the best there is


def test_a_high_price_leaves_nothing_and_none_leaves_all():
    image = torch.full((1, 3, 12, 16), 0.7)
    found = [
        ready(beta=beta, steps=30).class_maps(image, torch.tensor([[0]]))
        for beta in (0.0, 1.0, 10.0, 1e4)
    ]
    totals = [float(maps.sum()) for maps in found]
    everything = 3 * 6 * 8 * 4.5 / math.log(2)  # KL of lambda = sigmoid(5), at the least
    assert totals[0] > everything
    assert everything > totals[1] > totals[2] > 1
    assert totals[3] < 0.01 * totals[2]


@pytest.mark.parametrize("size", [(12, 16), (24, 32), (23, 17)])
def test_the_map_sums_to_the_bits_of_the_closed_form(size):
    """Steps too short to move alpha: lambda is the sigmoid of its start everywhere."""
    method = ready(steps=1, lr=1e-9, start=1.5)
    image = photographs(1, seed=9, size=size)
    lam, features = torch.tensor(1.5).sigmoid(), F.avg_pool2d(2 * image - 1, 2)
    exact = F.avg_pool2d(2 * photographs(200) - 1, 2)
    resized = [
        F.interpolate(part[None], features.shape[-2:], mode="bilinear")
        for part in (exact.mean(dim=0), exact.std(dim=0))
    ]
    mean, std = (
        resized if features.shape[-2:] != exact.shape[-2:] else (exact.mean(0), exact.std(0))
    )
    passed = Normal(lam * features + (1 - lam) * mean, (1 - lam) * std)
    expected = kl_divergence(passed, Normal(mean, std)).sum() / math.log(2)
    found = method.class_maps(image, torch.tensor([[0]]))
    assert found.shape == (1, 1, *size)
    torch.testing.assert_close(found.sum(), expected, rtol=1e-4, atol=0)


def test_information_is_exact_and_neither_negative_nor_infinite():
    x, share = torch.tensor([-2.0, 0.0, 3.0]), torch.tensor([[0.1], [0.5], [0.99]])
    expected = kl_divergence(Normal((1 - share) * x, share), Normal(0.0, 1.0))
    torch.testing.assert_close(information(x, share), expected)
    near = 1 - torch.arange(1000) * 2.0**-20
    assert information(torch.zeros(()), near).min() >= 0
    assert information(torch.zeros(()), torch.zeros(())) < 100


def literal(explanandum, image, label, known, steps, samples, beta, seed):
    """IBA of one image and class, written out with modules and distributions."""
    exact = F.avg_pool2d(explanandum.normalize(known), 2)
    mean, std = exact.mean(dim=0), exact.std(dim=0).clamp(min=0.01)
    active = ((exact != 0).float().mean(dim=0) > 0.01).float()
    features = F.avg_pool2d(explanandum.normalize(image[None]), 2)
    taps = torch.arange(-2.0, 3.0)
    kernel = torch.exp(-(taps[:, None] ** 2 + taps**2) / 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 5, 5)

    def mixing(alpha):
        return F.conv2d(nn.ReflectionPad2d(2)(alpha.sigmoid()), kernel, groups=3)

    def nats(lam):
        passed = Normal(lam * (features - mean) / std, 1 - lam)
        return kl_divergence(passed, Normal(0.0, 1.0)) * active

    alpha = torch.full((1, 3, 6, 8), 5.0, requires_grad=True)
    optimizer = torch.optim.Adam([alpha], lr=1.0)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        noise = torch.randn(samples, 3, 48, generator=generator).view(samples, 3, 6, 8)
        lam = mixing(alpha)
        mixed = lam * features + (1 - lam) * (mean + std * noise)
        value = (mixed * active)[:, 0, :2, :2].mean(dim=(1, 2))
        logits = torch.stack([explanandum.model.scale * value, torch.zeros_like(value)], dim=1)
        wanted = torch.full((samples,), label)
        error = F.cross_entropy(logits, wanted)
        if explanandum.multi_label:
            error = F.binary_cross_entropy_with_logits(logits[:, label], torch.ones(samples))
        optimizer.zero_grad()
        (error + beta * nats(lam).mean()).backward()
        optimizer.step()
    return nats(mixing(alpha.detach())).sum(dim=1, keepdim=True) / math.log(2)


@pytest.mark.parametrize("multi_label", [True, False])
def test_it_is_what_a_literal_loop_finds(multi_label):
    explanandum = corner(scale=3.0, multi_label=multi_label)
    known = photographs(50)
    known[:, 1] = 0.5  # a channel that is 0 for the classifier: its neurons are inactive
    known[:, 0, :2, :2] = 0.5  # and one that decides
    method = IBA(explanandum, "features", steps=6, samples=4, beta=5.0, relu=False, seed=3)
    for batch in known.split(20):
        method.estimate(batch)
    images = photographs(2, seed=5)
    found = method.class_maps(images, torch.tensor([[0, 1], [0, 1]]))
    for image, maps in zip(images, found, strict=True):
        for label in range(2):
            bits = literal(explanandum, image, label, known, 6, 4, 5.0, seed=3)
            expected = F.interpolate(bits, scale_factor=2, mode="bilinear")[0, 0] / 4
            torch.testing.assert_close(maps[label], expected, rtol=1e-3, atol=1e-4)


def test_the_released_run_is_one_step_less_but_for_the_border():
    """The released code maps alpha before its last update, and mirrors the border of the map."""
    explanandum, known, image = corner(scale=3.0), photographs(50), photographs(1, seed=5)
    bits = literal(explanandum, image[0], 0, known, 9, 10, 10.0, seed=0)[0, 0]
    mirrored = {"order": 1, "mode": "reflect", "anti_aliasing": False, "preserve_range": True}
    released = torch.from_numpy(transform.resize(bits.numpy(), (12, 16), **mirrored)) / 4
    maps = {}
    for steps in (9, 10):
        method = IBA(explanandum, "features", steps=steps, relu=False)
        method.estimate(known)
        maps[steps] = method.class_maps(image, torch.tensor([[0]]))[0, 0]
        maps[steps] = maps[steps].double()
    inside = slice(1, -1), slice(1, -1)
    torch.testing.assert_close(maps[9][inside], released[inside].double(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(maps[9].sum(), bits.double().sum(), rtol=1e-3, atol=0)
    assert 1e-4 < abs(released.sum() / bits.sum() - 1) < 0.1  # the mirrored border changes the sum
    alike = [
        torch.corrcoef(torch.stack([m, released]).flatten(1).double())[0, 1] for m in maps.values()
    ]
    assert alike[0] > 0.97  # the border is a third of these 12 x 16 pixels
    assert alike[0] > alike[1]


def test_mixtures_are_cut_off_where_features_are_never_negative():
    explanandum, lowest = corner(), []
    hook = explanandum.model.after.register_forward_hook(
        lambda *a: lowest.append(a[2].min().item())
    )
    bright = 0.5 + 0.5 * photographs(50) ** 4  # features in [0, 1], most of them small
    for known, relu, cut in (
        (bright, None, True),
        (photographs(50), None, False),
        (bright, False, False),
        (photographs(50), True, True),
    ):
        method = IBA(explanandum, "features", relu=relu, start=-5.0, steps=1)
        method.estimate(known)
        lowest.clear()
        method.class_maps(bright[:1], torch.tensor([[0]]))
        assert (lowest[-1] == 0) if cut else (lowest[-1] < 0)
    hook.remove()


def test_the_passes_are_counted_and_no_gradient_is_taken_before_the_layer():
    explanandum = corner()
    method = ready(explanandum, steps=3, samples=5, pairs=4)
    forward, backward, before = [], [], []

    def count(_module, inputs, output):
        forward.append(len(inputs[0]))
        if output.requires_grad:
            output.register_hook(lambda gradient: backward.append(len(gradient)))

    hooks = [
        explanandum.register_forward_hook(count),
        explanandum.model.features.register_forward_hook(
            lambda *a: before.append(a[2].requires_grad), prepend=True
        ),
    ]
    images = photographs(3).requires_grad_()
    method.class_maps(images, torch.tensor([[0, 1]] * 3))
    for hook in hooks:
        hook.remove()
    assert sum(forward) == 6 * (1 + 3 * 5)
    assert sum(backward) == 6 * 3 * 5
    assert max(forward) == 4 * 5
    assert not any(before)


def test_any_grouping_gives_the_same_map_even_if_the_network_goes_around_the_layer():
    images, classes = photographs(2), torch.tensor([[0, 1], [1, 0]])
    explanandum = corner(scale=3.0, skip=30.0)
    together = ready(explanandum, pairs=16).class_maps(images, classes)
    torch.testing.assert_close(ready(explanandum, pairs=1).class_maps(images, classes), together)


def test_tokens_before_the_patches_are_not_in_the_map():
    """With lambda 1/2 everywhere, each patch's bits are those of its own four channels."""
    method = IBA(planted.explanandum("vit"), steps=1, lr=1e-9, start=0.0)
    known, images = planted.scenes(40)[0], planted.scenes(1, seed=9)[0]
    method.estimate(known)
    exact, features = (method.explanandum.features(i)[-1] for i in (known, images))
    active = (exact != 0).any(dim=0)
    std = exact.std(dim=0).clamp(min=0.01)
    passed = Normal(0.5 * (features - exact.mean(dim=0)) / std, torch.tensor(0.5))
    nats = (kl_divergence(passed, Normal(0.0, 1.0)) * active).sum(dim=1, keepdim=True)
    expected = F.interpolate(nats / math.log(2), scale_factor=4, mode="bilinear")[0, 0] / 16
    found = method.class_maps(images, torch.tensor([[0]]))[0, 0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def fit(method, loader, tmp_path, **changes):
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        **{"max_epochs": 1} | changes,
    )
    trainer.fit(method, loader, loader)  # warnings fail the test: what Lightning asks for is there
    return trainer


def test_a_fit_counts_and_its_checkpoint_brings_the_statistics_back(tmp_path, monkeypatch):
    method = IBA(planted.explanandum(), steps=3, samples=2)
    known = planted.scenes(10)[0]
    trainer = fit(method, DataLoader([{"image": i} for i in known], batch_size=4), tmp_path)
    assert method.statistics.images == 10
    assert trainer.global_step == 3  # or ModelCheckpoint would think that there is nothing to save
    features = method.explanandum.features(known)[1].flatten(2).double()
    torch.testing.assert_close(method.statistics.mean, features.mean(dim=0))
    torch.testing.assert_close((method.statistics.squares / 9).sqrt(), features.std(dim=0))

    trainer.save_checkpoint(tmp_path / "iba.ckpt")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("no network"))
    images, targets = planted.scenes(2, seed=1)
    expected = method.attribute(images, targets)
    assert expected.max() > 0
    for loaded in (
        IBA.load_from_checkpoint(str(tmp_path / "iba.ckpt")),
        explainers.load(str(tmp_path / "iba.ckpt")),
    ):
        torch.testing.assert_close(
            loaded.statistics.state_dict(), method.statistics.state_dict(), rtol=0, atol=0
        )
        torch.testing.assert_close(loaded.attribute(images, targets), expected, rtol=0, atol=0)


def test_a_fit_ends_when_it_has_seen_enough(tmp_path):
    method = IBA(planted.explanandum(), images=5)
    loader = DataLoader([{"image": i} for i in planted.scenes(12)[0]], batch_size=3)
    fit(method, loader, tmp_path, max_epochs=4)
    assert method.statistics.images == 6


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("test_resnet", "layer2"),
        ("test_vit", "blocks.2"),
        ("test_efficientnet", "blocks.2"),
        ("test_convnext", "stages.1"),
    ],
)
def test_default_layers_of_timm_and_a_map_from_each(name, layer):
    torch.manual_seed(0)
    explanandum = Explanandum(name, num_classes=4)
    method = IBA(explanandum, steps=2, samples=2)
    assert method.layer == layer
    size = tuple(explanandum.input_size)
    method.estimate(photographs(4, size=size))
    found = method.attribute(photographs(1, seed=1, size=size), torch.eye(4)[:1].bool())
    assert found.shape == (1, *size)
    assert found.min() >= 0
    assert found.sum() > 0
    assert method.statistics.lowest < 0 or name == "test_resnet"


def test_without_statistics_it_says_how_to_get_them():
    method = IBA(corner(), "features")
    for _ in range(2):  # one image has no deviation
        with pytest.raises(ValueError, match=r"train\.py fit"):
            method.attribute(photographs(1), torch.tensor([[True, False]]))
        method.estimate(photographs(1))
    method.attribute(photographs(1), torch.tensor([[True, False]]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layer": "nowhere"}, "no module 'nowhere'"),
        ({"steps": 0}, "positive"),
        ({"least_std": 0.0}, "positive"),
        ({"images": 1}, "at least 2"),
        ({"beta": -1.0}, "not be negative"),
    ],
)
def test_wrong_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        IBA(corner(), **{"layer": "features"} | wrong)
