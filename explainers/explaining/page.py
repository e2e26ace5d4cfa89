"""The page of the demo: a photograph, its classes, the maps, and the pixels kept or removed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio
import torch
from torch import Tensor

from explainers.base import Explainer
from explainers.evaluation.drawing import Picture, picture
from explainers.explaining import byname, photofiles, plotting
from explainers.explaining.explanation import explanation
from explainers.explaining.plotting import TOP, Explanation
from explainers.explanandum import Explanandum
from explainers.functional import masking
from explainers.trust import granting

MORE = ("smooth_saliency", "rise", "lime", "sliding_patch", "sloc")  # made when they are chosen
KEEP, REMOVE = "keep", "remove"
INTRODUCTION = """# Which pixels made the classifier decide?
Drop a photograph. It stays on this machine. `rise`, `lime`, `sliding_patch` and `sloc` ask the
classifier hundreds of times, and take up to minutes."""


class Page:
    """The state of the page and what its controls do.

    Args:
        explainers: Methods that are chosen at the start, by name, all of the same classifier.
    """

    def __init__(self, explainers: Mapping[str, Explainer]) -> None:
        self.explainers = dict(explainers)
        self.start = list(explainers)
        self.subject: Explanandum = next(iter(explainers.values())).explanandum
        short = [plotting.short(name) for name in self.subject.class_names]
        self.names = [
            f"{name} ({index})" if short.count(name) > 1 else name
            for index, name in enumerate(short)
        ]

    @classmethod
    def of(
        cls,
        checkpoints: Sequence[str],
        method: str | None = None,
        model: str | None = None,
        trust: Sequence[str] = (),
    ) -> "Page":
        """The page of checkpoints and methods, named as in the command `explain`.

        Raises:
            ValueError: If a name is unknown, or a checkpoint explains another classifier.
            FileNotFoundError: If a checkpoint does not exist.
        """
        with granting(trust):
            given = byname.classifier(model) if model else None
            names = ",".join([*checkpoints, *([method] if method else [])])
            found = byname.methods(names or None, given)
            if names and method is None:
                subject = next(iter(found.values())).explanandum
                found = {**byname.methods(None, subject), **found}
        for explainer in found.values():
            explainer.to("cuda" if torch.cuda.is_available() else "cpu")
        return cls(found)

    def read(self, path: str | None) -> tuple[Tensor | None, dict[str, float], int | None]:
        """The image (3, H, W) of a file, its top classes, and the index of the first."""
        if path is None:
            return None, {}, None
        image = photofiles.photograph(Path(path), self.subject.input_size)
        probabilities = self.probabilities(image)
        best = int(probabilities.argmax())
        return image, self.told(probabilities, best), best

    def explain(
        self, image: Tensor | None, index: int | None, chosen: Sequence[str]
    ) -> tuple[Explanation | None, Picture | None]:
        """The maps of the chosen methods for a class, and their picture."""
        if image is None or index is None or not chosen:
            return None, None
        for name in chosen:
            if name not in self.explainers:
                made = byname.method(name, self.subject)
                self.explainers[name] = made.to(self.subject.mean.device)
        methods = {name: self.explainers[name] for name in chosen}
        found = explanation(methods, image, [index], "your photograph")
        return found, plotting.figure(found).pixels

    def mask(
        self, found: Explanation | None, method: str | None, how: str, percent: float
    ) -> tuple[Picture | None, dict[str, float]]:
        """The image of which pixels are kept or removed, and the probabilities of its classes.

        Args:
            found: The maps.
            method: Method whose map orders the pixels.
            how: "keep" or "remove".
            percent: Share of the pixels, those of the largest values, in percent.
        """
        if found is None or method not in found.maps:
            return None, {}
        first = largest(found.maps[method][0], percent / 100)
        masks = first if how == KEEP else 1 - first
        fill = self.subject.mean.cpu()
        image = masking.blend(found.image[None], masks[None], fill)[0]
        return picture(image), self.told(self.probabilities(image), found.classes[0])

    @torch.no_grad()
    def probabilities(self, image: Tensor) -> Tensor:
        """Probabilities (K,) of an image (3, H, W)."""
        batch = image[None].to(self.subject.mean.device)
        return self.subject.probabilities(batch)[0].double().cpu()

    def told(self, probabilities: Tensor, index: int) -> dict[str, float]:
        """Probabilities of the top classes and of the class that is explained, by name."""
        top = probabilities.topk(min(TOP, len(probabilities))).indices.tolist()
        return {self.names[i]: probabilities[i].item() for i in dict.fromkeys([*top, index])}

    def blocks(self) -> Any:
        """The controls, and what follows what."""
        # Without gradio's button that shares a picture on the network.
        shown: dict[str, Any] = {"interactive": False, "format": "png", "buttons": ["fullscreen"]}
        offered = list(dict.fromkeys([*self.start, *MORE]))
        with gradio.Blocks(title="Learned explainers", analytics_enabled=False) as blocks:
            image, found = gradio.State(), gradio.State()
            gradio.Markdown(INTRODUCTION)
            with gradio.Row():
                with gradio.Column(scale=1):
                    photo = gradio.Image(
                        type="filepath",
                        label="photograph",
                        sources=["upload", "clipboard"],
                        elem_id="photo",
                    )
                    classes = gradio.Dropdown(
                        [(name, i) for i, name in enumerate(self.names)],
                        value=None,
                        label="class to explain",
                    )
                    methods = gradio.CheckboxGroup(offered, value=self.start, label="methods")
                    whole = gradio.Label(label="the whole photograph")
                with gradio.Column(scale=3):
                    maps = gradio.Image(show_label=False, elem_id="maps", **shown)
                    with gradio.Row():
                        with gradio.Column():
                            order = gradio.Radio(
                                self.start, value=self.start[0], label="in the order of"
                            )
                            how = gradio.Radio([KEEP, REMOVE], value=KEEP, label="first pixels")
                            share = gradio.Slider(
                                0, 100, value=30, step=1, label="share in percent", elem_id="share"
                            )
                        left = gradio.Image(show_label=False, elem_id="left", **shown)
                        part = gradio.Label(label="what is left", elem_id="part")

            def chosen(names: list[str], now: str | None) -> Any:
                value = now if now in names else next(iter(names), None)
                return gradio.Radio(names, value=value)

            shared: dict[str, Any] = {"concurrency_id": "classifier", "show_progress": "minimal"}
            outputs = [left, part]
            changes = [
                photo.change(refusing(self.read), photo, [image, whole, classes], **shared),
                classes.input(None),
                methods.input(chosen, [methods, order], order),
            ]
            for change in changes:
                change.then(
                    refusing(self.explain), [image, classes, methods], [found, maps], **shared
                ).then(refusing(self.mask), [found, order, how, share], outputs, **shared)
            for control in (order, how, share):
                control.input(
                    refusing(self.mask),
                    [found, order, how, share],
                    outputs,
                    trigger_mode="always_last",
                    **shared,
                )
        return blocks

    def serve(self, port: int | None) -> Any:
        """Serves the page to this machine alone, and returns it; `block_thread` then waits.

        Args:
            port: Port on the loopback device. None takes a free one.
        """
        blocks = self.blocks()
        blocks.launch(
            server_name="127.0.0.1",
            server_port=port,
            share=False,
            ssr_mode=False,
            footer_links=[],
            quiet=True,
            prevent_thread_lock=True,
        )
        return blocks


def largest(values: Tensor, share: float) -> Tensor:
    """A mask (H, W) of 1 at this share of the pixels, those with the largest values of a map.

    Of equal values, those with the larger index come first, as in `perturbation.curves`.

    Example:
        >>> largest(torch.tensor([[1.0, 3.0], [1.0, 0.0]]), 0.5).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    order = values.flatten().argsort(stable=True)
    mask = torch.zeros(values.numel())
    mask[order[values.numel() - round(share * values.numel()) :]] = 1
    return mask.view(values.shape)


def refusing(function: Any) -> Any:
    """The function, whose refusals the page shows in a box."""

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (ValueError, ModuleNotFoundError) as error:
            raise gradio.Error(str(error)) from error

    return call
