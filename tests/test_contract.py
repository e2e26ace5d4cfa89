"""What every method must keep to; a new one is covered by its YAML file alone."""

import copy
import importlib
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from explainers import Explainer, LearnedExplainer
from explainers.explanandum.features import NotDefinedError
from tests import planted

METHODS = sorted(Path("configs/methods").glob("*.yaml"))
KINDS = ("cnn", "vit")
STEPS = 60
BUILT: dict[tuple[str, str], Explainer] = {}
PLAIN: dict[tuple[str, str], torch.Tensor] = {}
REFUSED: set[tuple[str, str]] = set()


def build(path: Path, kind: str) -> Explainer:
    """The method of a config file on a planted classifier; learned ones train briefly, once."""
    if (path.stem, kind) in REFUSED:
        pytest.skip("the method is not defined for this classifier")
    if (path.stem, kind) not in BUILT:
        config = yaml.safe_load(path.read_text())["model"]
        module, _, name = config["class_path"].rpartition(".")
        cls = getattr(importlib.import_module(module), name)
        arguments = config.get("init_args", {})
        for argument, value in cls.quick.items():
            known = arguments.get(argument)
            arguments[argument] = {**known, **value} if isinstance(known, dict) else value
        torch.manual_seed(0)
        try:
            method = cls(planted.explanandum(kind), **arguments)
        except NotDefinedError as error:
            REFUSED.add((path.stem, kind))
            pytest.skip(str(error))
        if isinstance(method, LearnedExplainer):
            train(method)
        elif hasattr(method, "estimate"):  # statistics of a layer's features
            method.estimate(planted.scenes(64)[0])
        BUILT[path.stem, kind] = method.eval()
    return BUILT[path.stem, kind]


def train(method: LearnedExplainer) -> None:
    optimizer = torch.optim.Adam(
        [p for p in method.parameters() if p.requires_grad], lr=method.optimizer["lr"]
    )
    method.train()
    for step in range(STEPS):
        images, targets = planted.scenes(8, seed=step + 1)
        generator = torch.Generator().manual_seed(step)
        terms = method.loss_terms({"image": images, "target": targets}, generator)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()


def plain_maps(path: Path, kind: str) -> torch.Tensor:
    """Maps of two scenes in the state in which Python starts, once."""
    if (path.stem, kind) not in PLAIN:
        maps = build(path, kind).attribute(*planted.scenes(2, seed=999))
        PLAIN[path.stem, kind] = maps.detach()
    return PLAIN[path.stem, kind]


def first_kind(path: Path) -> str:
    """The first kind of planted classifier that the method can explain."""
    try:
        build(path, "cnn")
    except pytest.skip.Exception:
        return "vit"
    return "cnn"


@pytest.fixture(params=METHODS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def method(path, kind):
    return build(path, kind)


def test_shape_type_range_and_untouched_inputs(method):
    images, targets = planted.scenes(2)
    before = images.clone(), targets.clone()
    maps = method.attribute(images, targets)
    assert maps.shape == (2, 32, 32)
    assert maps.dtype == torch.float32
    assert maps.isfinite().all()
    if method.is_mask:
        assert maps.min() >= 0
        assert maps.max() <= 1
    assert torch.equal(images, before[0])
    assert torch.equal(targets, before[1])


def state(module):
    return {
        "weights": {name: value.clone() for name, value in module.state_dict().items()},
        "modes": [m.training for m in module.modules()],
        "hooks": [
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
            for m in module.modules()
        ],
        "grads": [(p.requires_grad, p.grad is None) for p in module.parameters()],
    }


def test_the_explanandum_is_as_it_was(method):
    before = state(method.explanandum)
    method.attribute(*planted.scenes(2))
    after = state(method.explanandum)
    torch.testing.assert_close(after.pop("weights"), before.pop("weights"), rtol=0, atol=0)
    assert after == before


def test_a_map_does_not_depend_on_its_batch(method, path, kind):
    images, targets = planted.scenes(2, seed=999)
    together = plain_maps(path, kind)
    alone = torch.cat(
        [method.attribute(i[None], t[None]) for i, t in zip(images, targets, strict=True)]
    )
    torch.testing.assert_close(
        together, alone, rtol=1e-4, atol=1e-4 * float(alone.detach().abs().max())
    )


def test_the_same_call_gives_the_same_map(method, path, kind):
    torch.manual_seed(1)
    first = plain_maps(path, kind)
    torch.manual_seed(2)
    again = method.attribute(*planted.scenes(2, seed=999))
    torch.testing.assert_close(again, first, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*explains the predicted class only")
def test_class_maps_equal_one_call_a_class(method):
    images, _ = planted.scenes(2)
    classes = torch.tensor([[0, 3], [2, 1]])
    maps = method.class_maps(images, classes)
    assert maps.shape == (2, 2, 32, 32)
    alone = method.attribute(images, torch.nn.functional.one_hot(classes[:, 1], 4).bool())
    torch.testing.assert_close(
        maps[:, 1], alone, rtol=1e-4, atol=1e-4 * float(alone.detach().abs().max())
    )


@pytest.mark.parametrize("size", [(32, 48), (37, 51)])
def test_other_image_sizes(path, size):
    method = build(path, first_kind(path))
    images, targets = planted.scenes(2, size)
    assert method.attribute(images, targets).shape == (2, *size)


def test_it_finds_the_quadrant_that_decides(method):
    if not method.class_specific:
        pytest.skip("the method does not depend on the target")
    images, targets = planted.scenes(4, seed=999)
    maps = method.attribute(images, targets)
    mass = (maps - maps.amin(dim=(1, 2), keepdim=True))[:, None] * planted.quadrant_masks(32, 32)
    assert (mass.sum(dim=(2, 3)).argmax(dim=1) == targets.int().argmax(dim=1)).all()


def test_a_checkpoint_names_only_arguments_of_the_class(path):
    method = build(path, first_kind(path))
    checkpoint = {"state_dict": {}}
    method.on_save_checkpoint(checkpoint)
    again = type(method)(method.explanandum, **checkpoint["hyper_parameters"])
    assert dict(again.hparams) == dict(method.hparams)


@pytest.mark.filterwarnings("ignore:.*explains the predicted class only")
def test_no_target_gives_nothing_where_the_target_matters(path):
    method = build(path, first_kind(path))
    images, targets = planted.scenes(2)
    targets[1] = False
    maps = method.attribute(images, targets)
    assert bool((maps[1] == 0).all()) == method.class_specific


# The door: every state in which a caller can be, and every precision.


@contextmanager
def strange_state():
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.inference_mode(), torch.device("meta"):
            yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("around", [torch.no_grad, strange_state])
def test_maps_are_the_same_in_every_state_of_the_caller(path, around):
    method, plain = build(path, first_kind(path)), plain_maps(path, first_kind(path))
    images, targets = planted.scenes(2, seed=999)
    images.requires_grad_()
    with around():
        found = method.attribute(images.double(), targets.clone())
        after = torch.get_default_dtype(), torch.tensor(0).device.type
    torch.testing.assert_close(found, plain)
    assert not found.requires_grad
    assert not found.is_inference()
    strange = around is strange_state
    assert after == ((torch.float64, "meta") if strange else (torch.float32, "cpu"))


def alike(method: Explainer, found: torch.Tensor, plain: torch.Tensor) -> bool:
    """Whether maps of a coarser precision tell the same: the quadrant, or nearly the same values.

    Half precision has 8 or 11 bits, and an optimization can amplify their rounding.
    """
    if method.class_specific:
        quadrants = planted.quadrant_masks(32, 32)
        mass = ((m - m.amin(dim=(1, 2), keepdim=True))[:, None] * quadrants for m in (found, plain))
        first, second = (m.sum(dim=(2, 3)).argmax(dim=1) for m in mass)
        return torch.equal(first, second)
    return float((found - plain).abs().mean()) <= 0.05 * max(1.0, float(plain.max() - plain.min()))


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("cnn", torch.bfloat16),
        ("cnn", torch.float16),
        ("cnn", torch.float64),
        ("vit", torch.bfloat16),
        ("vit", "autocast"),
    ],
)
def test_maps_are_float32_whatever_the_classifier_computes_in(path, kind, dtype):
    method, plain = copy.deepcopy(build(path, kind)), plain_maps(path, kind)
    images, targets = planted.scenes(2, seed=999)
    if dtype != "autocast":
        method.explanandum.to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "autocast"):
        found = method.attribute(images, targets).detach()
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert alike(method, found, plain)
    if dtype == torch.float64:
        # Probabilities near 1, whose differences some maps are, are rounded to 6e-8.
        atol = max(1e-6, 1e-2 * float(plain.abs().max()))
        torch.testing.assert_close(found, plain, rtol=1e-2, atol=atol)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "bf16-mixed"])
def test_it_works_in_a_prediction_loop(path, precision, tmp_path):
    method, plain = copy.deepcopy(build(path, first_kind(path))), plain_maps(path, first_kind(path))
    images, targets = planted.scenes(2, seed=999)
    trainer = Trainer(
        accelerator="cpu",
        precision=precision,
        logger=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    )
    loader = DataLoader([{"image": image} for image in images], batch_size=2)
    predicted = trainer.predict(method, loader)[0]
    assert torch.equal(predicted["targets"], targets)
    assert predicted["maps"].dtype == torch.float32
    assert alike(method, predicted["maps"], plain)
    if precision == "32-true":
        torch.testing.assert_close(predicted["maps"], plain)
