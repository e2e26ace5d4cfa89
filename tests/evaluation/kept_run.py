"""A run with kept maps and curves, for the tests of its page."""

import json

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from explainers import mapstore

X = np.linspace(0, 1, 13)


def figure(mean, better=True, half=0.1):
    ends = [None, None] if mean is None else [mean - half, mean + half]
    return {"mean": mean, "ci95": ends, "n": 2, "higher_is_better": better}


def entry(index, methods, side=32, targets=("3",), sigma=4.0, name=None, **facts):
    """An image whose maps are smooth noise, or those in `methods` if it is a mapping."""
    rng = np.random.default_rng(index)
    given = methods if isinstance(methods, dict) else {}
    noise = rng.normal(size=(len(methods) * len(targets), side, side))
    smooth = gaussian_filter(noise, (0, sigma, sigma)).astype(np.float32)
    keys = [(method, target) for method in methods for target in targets]
    maps = {
        key: np.asarray(given.get(key[0], values), np.float32)
        for key, values in zip(keys, smooth, strict=True)
    }
    fall, rise = (1 - X) ** 2, X / 2
    curves = {
        key: {"DeletionAUC": np.float32([X, fall]), "InsertionAUC": np.float32([X, rise])}
        for key in keys
    }
    pixels = gaussian_filter(rng.integers(0, 256, (side, side, 3)).astype(float), (2, 2, 0))
    photo = mapstore.photo((pixels * 1.0).clip(0, 255).astype(np.uint8))
    known = {
        "target": {target: f"class {target}" for target in targets},
        "predicted": {"class": "class 3", "probability": 0.83},
        "size": [side, side],
    }
    return mapstore.Entry(index, name or f"{index}.jpg", photo, known | facts, maps, curves)


def run(folder, entries, methods, scores, summary=None, masks=()):
    """Writes the folder of a finished test: `scores[method][i]` is Faithfulness of entry i."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = list(entries)
    rows = [
        f'{e.index},"{e.name}",{t},{m},{scores[m][i]},{i - 0.5 * i * scores[m][i]},1.0'
        for i, e in enumerate(entries)
        for m, t in e.maps
    ]
    lines = ["index,name,target,method,Faithfulness,IDD,seconds", *rows, ""]
    (folder / "scores.csv").write_text("\n".join(lines))
    about = {
        "explanandum": "net",
        "classifier": None,
        "data": "Folder",
        "target": "predicted",
        "precision": "32-true",
        "images": len(entries),
        "methods": {
            m: {
                "Faithfulness": figure(float(np.mean(scores[m]))),
                "IDD": figure(1.0),
                "seconds": figure(2.0 + i, False),
            }
            for i, m in enumerate(methods)
        },
        "families": {"Faithfulness": "RISECurves", "IDD": "SLOCCurves", "seconds": "Seconds"},
        "paired": [],
        "versions": {"torch": "2"},
        "verdicts": {"Faithfulness": "a leads"},
        "agreement": {"Faithfulness": {"Faithfulness": 1.0}, "IDD": {"IDD": 1.0}},
    }
    (folder / "summary.json").write_text(json.dumps(about | (summary or {})))
    (folder / "settings.json").write_text(json.dumps({"target": "predicted"}))
    (folder / "table.md").write_text("images\n\n| table |\n")
    if any(e.photo for e in entries):
        mapstore.describe(folder, {"methods": list(methods), "masks": list(masks), "settings": {}})
    for each in entries:
        mapstore.write(folder, each)
    mapstore.pack(folder)
    return folder


def decoded(content):
    """Gray values of a picture that is part of a page."""
    import base64
    import io

    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image.convert("RGB"))[..., 0]
