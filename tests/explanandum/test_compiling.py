"""A compiled classifier has its logits, and compiled code runs only where nobody looks inside."""

import copy
import os
import shutil

import pytest
import torch
from torch import nn

from explainers.explanandum.compiling import Compiling
from explainers.explanandum.taps import counted, recorded, replaced
from tests import planted


@pytest.fixture
def calls(monkeypatch):
    """Batch sizes that `torch.compile`'s code was called with; the code itself is not compiled."""
    found = []

    def compiled(function):
        def run(images):
            found.append(len(images))
            with monkeypatch.context() as inside:
                inside.setattr(torch.compiler, "is_compiling", lambda: True)
                return function(images)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    return found


def test_only_passes_without_gradients_and_hooks_run_compiled_code(calls):
    own = planted.explanandum()
    compiling, images = Compiling(own, (32, 32)), torch.rand(3, 3, 32, 32)
    exact = own(images)
    assert compiling.apply()
    assert calls == [2, 16]  # the trial
    with torch.no_grad():
        assert torch.equal(own(images), exact)
        assert calls == [2, 16, 3]
        with recorded(own.model, ["stages.0"]) as seen:
            own(images)
        assert seen["stages.0"].shape == (3, 4, 16, 16)
        with replaced(own.model, "stem", torch.zeros_like):
            assert not own(images).any()
        own.model.stem.forward = lambda x: 2 * exact.new_ones(len(x), 4, *x.shape[-2:])
        assert (own(images) > exact).all()
        del own.model.stem.forward
    own(images.requires_grad_()).sum().backward()
    assert calls == [2, 16, 3]


def test_images_in_compiled_passes_are_counted(calls):
    own = planted.explanandum()
    own.features(torch.rand(2, 3, 32, 32))  # trial passes are not counted
    Compiling(own, (32, 32)).apply()
    with torch.no_grad(), counted(own.model) as counts:
        own(torch.rand(3, 3, 32, 32))
        own.features(torch.rand(2, 3, 32, 32))
    assert calls == [2, 16, 3]
    assert counts == [5, 0]


def test_the_network_is_itself_again(calls):
    own = planted.explanandum()
    compiling = Compiling(own, (32, 32))
    compiling.apply()
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        with compiling.undone():
            own(images)
        copy.deepcopy(own)(images)  # with weights of its own
        assert calls == [2, 16]
        own(images[:1])  # one image is not worth code of its own
        assert calls == [2, 16]
        own(images)
        assert calls == [2, 16, 3]
        compiling.undo()
        own(images)
    assert calls == [2, 16, 3]
    assert "forward" not in vars(own.model)


def test_a_copy_of_a_compiled_network_has_its_own_weights(calls):
    own = planted.explanandum()
    Compiling(own, (32, 32)).apply()
    other, images = copy.deepcopy(own), torch.rand(2, 3, 32, 32)
    nn.init.zeros_(other.model.stem.weight)
    with torch.no_grad():
        assert not other(images).any()
        assert own(images).all()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_what_cannot_be_compiled_is_refused_and_stays_as_it_is(monkeypatch):
    def failing(function):
        def run(images):
            raise RuntimeError("no compiler\nand much more")

        return run

    own = planted.explanandum()
    monkeypatch.setattr(torch, "compile", failing)
    with pytest.raises(ValueError, match=r"fails with this classifier here \(no compiler\); leave"):
        Compiling(own, (32, 32)).apply()
    monkeypatch.setattr(torch, "compile", lambda function: lambda images: 1.1 * function(images))
    with pytest.raises(ValueError, match="its logits then differ by 1"):
        Compiling(own, (32, 32)).apply()
    assert "forward" not in vars(own.model)
    everywhere = nn.modules.module.register_module_forward_hook(lambda *call: None)
    with pytest.raises(ValueError, match="classifier have hooks"):
        Compiling(own, (32, 32)).apply()
    everywhere.remove()
    with recorded(own.model, ["stem"]), pytest.raises(ValueError, match="classifier have hooks"):
        Compiling(own, (32, 32)).apply()
    own.model = torch.jit.script(nn.Flatten())
    with pytest.raises(ValueError, match="TorchScript is compiled already"):
        Compiling(own, (32, 32)).apply()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
@pytest.mark.skipif(
    "ATEN_CPU_CAPABILITY" in os.environ,
    reason="torch's compiler then mixes instruction sets, and the trial refuses its code",
)
def test_compiled_code_has_the_logits_of_the_network_for_any_batch_and_after_a_change():
    torch.manual_seed(0)
    own = planted.explanandum()
    exact = copy.deepcopy(own)
    Compiling(own, (32, 32)).apply()
    for size in (1, 4, 3):
        images = torch.rand(size, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(own(images), exact(images), rtol=1e-4, atol=1e-4)
        with torch.inference_mode(), counted(own.model) as counts:
            torch.testing.assert_close(own(images), exact(images), rtol=1e-4, atol=1e-4)
        assert counts == [size, 0]
    with torch.no_grad():
        own.model.stem.weight.mul_(2)
        exact.model.stem.weight.mul_(2)
        torch.testing.assert_close(own(images), exact(images), rtol=1e-4, atol=1e-4)
        assert own(images).abs().min() > 0
