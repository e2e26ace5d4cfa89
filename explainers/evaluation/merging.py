"""One run from the runs of an array job, each of which has tested a part of the images."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from scipy import stats
from tqdm import tqdm

from explainers import mapstore
from explainers.evaluation import report
from explainers.evaluation.measure import default_metrics
from explainers.evaluation.precisioncheck import merge_checks
from explainers.evaluation.runfolder import differences, write_atomically
from explainers.evaluation.scorefile import ERROR, ScoreFile
from explainers.evaluation.summary import raise_if_failed, summarize
from explainers.metrics.base import PerImageMetric
from explainers.trust import check_class


def merge(folders: Sequence[Path], out: Path, command: str = "") -> None:
    """Writes the folder of the run that has tested the images of several runs.

    The runs differ only in the `shard` of their data. The scores, their summary and what is kept of
    the images equal those of a single run, bit for bit, if the images were scored one by one. The
    F1 of a multi-label classifier is not merged, as it is no mean over images.

    Args:
        folders: Folders of finished tests, one for each shard.
        out: Folder of the merged run. It may hold an earlier merge of the same runs.
        command: The command line, which is written to command.txt.

    Raises:
        FileNotFoundError: If a folder holds no finished test.
        ValueError: If the runs are not the parts of one run, a part is missing, or `out` holds
            another run.
    """
    settings = _whole_settings(folders, out)
    summaries = [_json(folder / "summary.json") for folder in folders]
    config, options = _config(folders[0])
    metrics = [
        metric
        for metric in _metrics(options.get("metrics"), str(folders[0] / "config.yaml"))
        if {*metric.names} <= {*settings["columns"]}
    ]
    file = ScoreFile(out, settings)
    try:
        rows = file.merge(_unread(folders), [folder / "scores.csv" for folder in folders])
        _keep(folders, out, settings)
        shared = {"images", "methods", "families", "paired", "verdicts", "ranks", "agreement"}
        figures = summarize(
            rows,
            metrics,
            list(summaries[0]["methods"]),
            options.get("bootstrap") or 1000,
            options.get("interval") or "percentile",
        )
        summary = {
            key: figures.get(key, value) if key in shared else value
            for key, value in summaries[0].items()
        }
        summary["classifier"] = _judged([each["classifier"] for each in summaries])
        summary["precision_check"] = merge_checks(folders, out, summary["precision"])
        summary["unread"] = sum(each["unread"] for each in summaries)
        height, width = settings["data"]["image_size"]
        text = report.page(summary, rows, metrics, (height, width))
        write_atomically(out / "command.txt", f"{command}\n")
        write_atomically(out / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        report.write(out, summary, text, rows)
        raise_if_failed(rows, file.methods)
    finally:
        file.close()


def _whole_settings(folders: Sequence[Path], out: Path) -> dict[str, Any]:
    """Settings that all runs share, without their shards, of which each must be there once."""
    if len({folder.resolve() for folder in [*folders, out]}) <= len(folders):
        raise ValueError("merge takes different folders, and --out is none of them")
    shards: dict[int, Path] = {}
    whole: dict[str, Any] | None = None
    count = 0
    for folder in folders:
        if not (folder / "summary.json").is_file():
            raise FileNotFoundError(
                f"{folder} holds no summary.json: merge takes folders of finished tests"
            )
        settings = _json(folder / "settings.json")
        shard = settings.get("data", {}).get("arguments", {}).pop("shard", None)
        if shard is None:
            raise ValueError(
                f"{folder} is no part of an array job: its data have no shard, such as "
                "--data.init_args.shard [0,8]"
            )
        place, of = shard
        whole, count = whole or settings, count or of
        if found := differences(whole, settings):
            raise ValueError(
                f"{folder} and {folders[0]} are no parts of one run: {'; '.join(found[:3])}"
            )
        if of != count or place in shards:
            told = f"shard {place} of {of}, and {shards.get(place, folders[0])} of {count}"
            raise ValueError(f"{folder} holds {told}: each shard counts once")
        shards[place] = folder
    if missing := [str(place) for place in range(count) if place not in shards]:
        raise ValueError(f"of {count} shards, {', '.join(missing)} are missing: name their folders")
    return whole or {}


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path.parent} holds no {path.name}") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error})") from None


def _config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration of the whole run, and in it the arguments of Score."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no config.yaml, which names the metrics: merge takes runs of "
            "evaluate.py test"
        )
    config = dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    (config.get("data") or {}).get("init_args", {}).pop("shard", None)
    listed = (config.get("trainer") or {}).get("callbacks") or []
    held = [each for each in listed if str(each.get("class_path")).endswith(".Score")]
    score = held[0].get("init_args") if held else config.get("score")
    return config, dict(score or {})


def _metrics(listed: list[dict[str, Any]] | None, path: str) -> list[PerImageMetric]:
    """Metrics of a configuration, whose classes must be of this package or trusted."""
    if listed is None:
        return default_metrics()
    for class_path in _class_paths(listed):
        check_class(class_path, path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--metrics", type=list[PerImageMetric])
    given = parser.parse_object({"metrics": listed})
    return list(parser.instantiate_classes(given).metrics)


def _class_paths(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        if "class_path" in value:
            yield str(value["class_path"])
        value = list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from _class_paths(each)


def _unread(folders: Sequence[Path]) -> dict[str, str]:
    """Images that the runs could not read, by name, and why."""
    found: dict[str, str] = {}
    for path in (folder / "errors.csv" for folder in folders):
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            found |= {row["image"]: row[ERROR] for row in rows if not row["method"]}
    return dict(sorted(found.items()))


def _keep(folders: Sequence[Path], out: Path, settings: Mapping[str, Any]) -> None:
    """Takes over the maps and curves that the runs have kept."""
    if not (about := mapstore.about(folders[0])):
        return
    mapstore.describe(out, {**about, "settings": settings})
    for folder in tqdm(folders, "merge", leave=False, disable=None):
        for entry in mapstore.read(folder):
            mapstore.write(out, entry)
    mapstore.pack(out)


def _judged(parts: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Accuracy of the classifier on all images, from those on the parts."""
    known = [part for part in parts if part and part["images"]]
    if not known or len(known) < len(parts) or known[0]["figure"] == "F1":
        return None
    images = sum(part["images"] for part in known)
    right = sum(round(part["value"] * part["images"]) for part in known)
    interval = stats.binomtest(right, images).proportion_ci(0.95, method="wilson")
    problems = {part["problem"] for part in known}
    return {
        **known[0],
        "value": right / images,
        "ci95": [float(interval.low), float(interval.high)],
        "images": images,
        "problem": problems.pop() if len(problems) == 1 else None,
    }
