"""A frozen classifier whose passes without a gradient run compiled code."""

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn

from explainers.explanandum.folding import TOLERANCE, Speedup
from explainers.explanandum.frozen import Explanandum
from explainers.explanandum.taps import looks

Forward = Callable[..., Any]


class Compiling(Speedup):
    """Has `torch.compile` make faster code for the passes of a frozen classifier.

    Only passes that need no gradient run that code. It knows nothing of hooks, so a pass in which
    a layer is looked at or changed is computed as before, as are passes with a gradient, whose
    compiled code was slower on the CPUs it was measured on (benchmarks/results/costs.md). The
    logits are the same up to rounding.

    It changes the network in place, until `undo`. Copies of the network are not compiled.

    Args:
        explanandum: The frozen classifier.
        size: Height and width of the images of the trial. Each other size is compiled when it
            comes first.
    """

    def __init__(self, explanandum: Explanandum, size: tuple[int, int]) -> None:
        self.explanandum, self._size, self._tried = explanandum, size, False
        self._forward = _Forward(explanandum.model)

    @torch.inference_mode(False)
    @torch.no_grad()
    def apply(self) -> bool:
        """Compiles the network, at first by a trial pass, and returns True.

        Raises:
            ValueError: If the network cannot be compiled here, for example for want of a C++
                compiler, or if the logits of the trial differ by more than a thousandth of the
                largest; or if its layers have hooks.
        """
        subject = self.explanandum
        if isinstance(subject.model, torch.jit.ScriptModule):
            raise ValueError("compiled: TorchScript is compiled already; leave it out")
        if looks(subject.model)[1]:
            raise ValueError(
                "compiled: layers of this classifier have hooks or a function `forward` of their "
                "own, which compiled code may miss; leave it out"
            )
        if self._tried:
            vars(subject.model)["forward"] = self._forward
            return True
        generator = torch.Generator().manual_seed(0)
        trial = torch.rand((18, 3, *self._size), generator=generator).to(subject.mean)
        few, many = trial[:2], trial[2:]  # a convolution may be computed in one of two ways
        before = torch.cat([subject(few), subject(many)])
        vars(subject.model)["forward"] = self._forward
        try:
            difference = (torch.cat([subject(few), subject(many)]) - before).abs().max()
            self._tried = bool(difference <= TOLERANCE * before.abs().max())
            reason = f"its logits then differ by {difference:.2g}"
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
        if not self._tried:
            self.undo()
            raise ValueError(
                f"compiled: torch.compile fails with this classifier here ({reason}); leave it out"
            )
        return True

    def undo(self) -> None:
        """Gives the network its own code again."""
        own = vars(self.explanandum.model)
        if own.get("forward") is self._forward:
            del own["forward"]
            own |= self._forward.before


class _Forward:
    """The function `forward` of a network: compiled code where that is possible, else its own.

    Attributes:
        before: The network's own attribute `forward`, where it has one beside its class's.
    """

    def __init__(self, model: nn.Module) -> None:
        self.before = {n: value for n, value in vars(model).items() if n == "forward"}
        self._model, self._own = model, model.forward
        self._compiled: Forward = torch.compile(model.forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        images = args[0]
        if torch.is_grad_enabled() or len(args) + len(kwargs) != 1 or len(images) < 2:
            return self._own(*args, **kwargs)
        counting, others = looks(self._model)
        if others:
            return self._own(*args, **kwargs)
        # The code depends on the mode, on the size of the images, and on one or several images.
        with torch.inference_mode(False), torch.no_grad():
            images = images.clone() if images.is_inference() else images
            torch._dynamo.maybe_mark_dynamic(images, 0)
            torch._dynamo.mark_static(images, [1, 2, 3])
            output = self._compiled(images)
        for count in counting:
            count(None, args, images)
        return output

    def __deepcopy__(self, memo: dict[int, Any]) -> Forward:
        """The own function of the copy of the network, which is being made."""
        model = memo[id(self._model)]
        before = self.before.get("forward")
        return copy.deepcopy(before, memo) if before else MethodType(type(model).forward, model)
