"""Images with the maps of all methods beside each other, as the page of a run shows them."""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image

from explainers import mapstore
from explainers.evaluation.meancurves import CURVES, MeanCurves, line
from explainers.mapstore import Entry, Pixels
from explainers.metrics.boxes import map_boxes

IMAGES = 50  # largest number of images shown
BYTES = 6_500_000  # pictures of a page before base64, which adds a third
SIDE = 112  # longest side of a picture of ranks
LEVELS = 65  # points at which the values behind the ranks are given
ALPHA = 0.5  # share of a map's maximum above which its box is drawn
MEAN = (0.485, 0.456, 0.406)  # of ImageNet, if the classifier's is not known
HUES = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#9a6324")

Lookup = Callable[[int, str, str], Mapping[str, float]]  # of index, target and method


class Figures(NamedTuple):
    """What a gallery tells of each map, and of which methods.

    Attributes:
        methods: Names of the methods in the order in which they are shown.
        higher: Whether larger is better, by figure; the first figure stands under each map.
        scores: Function that finds the values of these figures.
    """

    methods: Sequence[str]
    higher: Mapping[str, bool]
    scores: Lookup


def gallery(
    entries: Iterable[Entry], about: Mapping[str, Any], figures: Figures, budget: int = BYTES
) -> tuple[dict[str, Any], MeanCurves]:
    """Everything that the gallery shows, and the mean curves of all entries.

    Args:
        entries: What a run has kept.
        about: What holds for all of its maps, see `mapstore.about`.
        figures: Methods and scores to show.
        budget: Largest number of bytes of its pictures; images that go beyond it are left out.

    Returns:
        `rows`, the words of each image and target; `layers`, the images with maps of several single
        classes; `data`, what the script needs; `images` and `kept`, numbers of images. `rows` is
        empty if no maps are kept.
    """
    masks, signed = about.get("masks", ()), about.get("signed", ())
    fill = about.get("settings", {}).get("explanandum", {}).get("mean", MEAN)
    means, size, kept, full = MeanCurves(), 0, 0, False
    rows: list[dict[str, Any]] = []
    items: list[dict[str, Any]] = []
    layers: list[tuple[dict[str, Any], dict[str, Any]]] = []  # that are no rows
    photos: list[str] = []
    for entry in entries:
        means.add(entry)
        kept += bool(entry.maps)
        if full or not entry.maps:
            continue
        pictures = {
            key: _picture(values, key[0] in masks, key[0] in signed)
            for key, values in entry.maps.items()
            if key[0] in figures.methods
        }
        size += len(entry.photo) + sum(
            len(each.get("rank", "")) * 3 // 4 for each in pictures.values()
        )
        full = len(photos) == IMAGES or size > budget
        if full:
            continue
        photos.append(_base64(entry.photo))
        for target in dict.fromkeys(target for _, target in pictures):
            shown = [pictures.get((method, target), {}) for method in figures.methods]
            boxes = entry.facts.get("boxes")
            if boxes is not None:
                for method, each in zip(figures.methods, shown, strict=True):
                    if each.get("rank"):
                        each["box"] = _box(entry.maps[method, target])
            row = _row(entry, target, shown, figures)
            item = {
                "photo": len(photos) - 1,
                "target": row["target"],
                "classes": row["classes"],
                "name": entry.name,
                "maps": shown,
                "boxes": _shares(boxes or [], entry.facts["size"]),
                "scores": row["scores"],
            }
            if target in entry.facts.get("layers", {}):
                layers.append((item, row))
            else:
                items.append(item)
                rows.append(row)
    every = [*items, *(item for item, _ in layers)]
    data = {
        "photos": photos,
        "items": every,
        "higher": list(figures.higher.values()),
        "fill": [round(255 * float(value)) for value in np.ravel(fill)],
        "colors": _palette("inferno"),
        "signed": [method in signed for method in figures.methods],
        "diverging": _palette("RdBu_r"),
        "hues": HUES,
    }
    found = {
        "rows": rows,
        "layers": _layers(every, [*rows, *(row for _, row in layers)]),
        "data": data,
        "images": len(photos),
        "kept": kept,
        "methods": list(figures.methods),
        "figures": list(figures.higher),
        "classes": sorted({name for row in rows for name in row["classes"]}),
        "boxes": any(item["boxes"] for item in items),
        "alpha": ALPHA,
    }
    return found, means


def _row(
    entry: Entry, target: str, shown: Sequence[Mapping[str, Any]], figures: Figures
) -> dict[str, Any]:
    """The words of an image and a target."""
    facts, first = entry.facts, next(iter(figures.higher), "")
    known_names = facts["target"] | facts.get("layers", {})
    names = [known_names.get(each, each) for each in target.split("|")]
    predicted = facts.get("predicted") or {}
    known = [*names, *facts.get("labels", []), *filter(None, [predicted.get("class")])]
    scores = [
        [figures.scores(entry.index, target, method).get(figure) for figure in figures.higher]
        for method in figures.methods
    ]
    scale = min(1.0, mapstore.SIDE / max(facts["size"]))
    cells = []
    for method, each, score in zip(figures.methods, shown, scores, strict=True):
        curves = entry.curves.get((method, target), {})
        cells.append(
            {
                "method": method,
                "score": score[0] if first else None,
                "fault": each.get("fault", "") if each else "no map is kept",
                "lines": {
                    name: points for name, of in CURVES.items() if (points := line(curves, of))
                },
            }
        )
    return {
        "name": entry.name,
        "target": ", ".join(names),
        "single": "|" not in target,
        "predicted": predicted,
        "probability": facts.get("probabilities", {}).get(target),
        "labels": facts.get("labels"),
        "classes": list(dict.fromkeys(known)),
        "size": [max(1, round(side * scale)) for side in facts["size"]],
        "cells": cells,
        "scores": scores,
    }


def _layers(
    items: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Images with maps of at least two single classes: the places of their rows, and the names."""
    of_photo: dict[int, list[int]] = {}
    for place, (item, row) in enumerate(zip(items, rows, strict=True)):
        if row["single"]:
            of_photo.setdefault(item["photo"], []).append(place)
    return [
        {
            "name": rows[places[0]]["name"],
            "size": rows[places[0]]["size"],
            "classes": [
                {
                    "item": place,
                    "name": rows[place]["target"],
                    "hue": HUES[number % len(HUES)],
                    "probability": rows[place]["probability"],
                }
                for number, place in enumerate(places)
            ],
        }
        for places in of_photo.values()
        if len(places) > 1
    ]


def _picture(values: Pixels, is_mask: bool, signed: bool) -> dict[str, Any]:
    """The ranks of a map's pixels as a picture, and its values at equally spaced ranks.

    Equal values are ranked by index, as in the curves. Values are fractions of the range of the
    colors: [0, 1] for masks, [-99th, 99th percentile of the magnitudes] for signed maps, otherwise
    the 1st to the 99th percentile, or all of it if these are equal.
    """
    if not np.isfinite(values).all():
        return {"fault": "not finite"}
    if values.min() == values.max():
        return {"fault": f"constant, {values.max():.3g}" if values.max() else "all zero"}
    height, width = values.shape
    ratio = min(1.0, SIDE / max(height, width))
    small = Image.fromarray(values.astype(np.float32)).resize(
        (max(1, round(width * ratio)), max(1, round(height * ratio))), Image.Resampling.BOX
    )
    pixels = np.asarray(small)
    order = pixels.ravel().argsort(kind="stable")
    ranks = np.empty(order.size, np.int64)
    ranks[order] = np.arange(order.size)
    file = io.BytesIO()
    eight_bit = (ranks * 256 // order.size).astype(np.uint8).reshape(pixels.shape)
    Image.fromarray(eight_bit).save(file, "WEBP", lossless=True, method=4)
    low, high = np.percentile(pixels, (1, 99))
    if is_mask:
        low, high = 0.0, 1.0
    elif signed:
        high = float(np.percentile(abs(pixels), 99)) or float(abs(pixels).max())
        low = -high
    elif low == high:
        low, high = pixels.min(), pixels.max()
    span = high - low if high > low else 1.0
    at = np.linspace(0, order.size - 1, LEVELS).round().astype(int)
    levels = ((pixels.ravel()[order][at] - low) / span).clip(0, 1)
    full = values if is_mask else (values - values.min()) / (values.max() - values.min())
    return {
        "rank": _base64(file.getvalue()),
        "levels": (255 * levels).round().astype(np.uint8).tobytes().hex(),
        "mean": round(float(full.mean()), 3),
    }


def _box(values: Pixels) -> list[float]:
    """Box around the largest region above `ALPHA` times the maximum, as shares of the sides."""
    box = map_boxes(torch.from_numpy(values)[None], [ALPHA], largest_component=True)[0, 0]
    return _shares([box.tolist()], values.shape)[0]


def _shares(boxes: Sequence[Sequence[float]], size: Sequence[int]) -> list[list[float]]:
    height, width = size
    sides = (width, height, width, height)
    return [[round(end / side, 4) for end, side in zip(box, sides, strict=True)] for box in boxes]


def _palette(name: str) -> list[list[int]]:
    colors = colormaps[name](np.linspace(0, 1, 33), bytes=True)[:, :3]
    return [list(map(int, color)) for color in colors]


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
