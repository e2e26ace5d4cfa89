"""Cost of every method that needs no training, and of every metric, over its physical floor.

    python -m benchmarks.costs --quick --only rise sloc RISECurves

The floor is the number of passes that a row asks for, forward and backward, times a bare pass of
the classifier in full batches, in the faster memory layout of the same round. A pass that ends
before the image, as that of a CAM does, counts in full: such a row can be below 1. Other columns:

- own ms: time beyond the same passes with a light classifier, in ms for each image
- MiB: largest memory during that run beyond the memory before it
- images, classes, size: how many times as long twice as many images, classes, or masks, steps or
  samples take with the light classifier
- peers: time of other libraries that compute the same, over ours

CPU time of one thread, or CUDA events with `--device cuda`; contenders take turns; medians.
"""

import argparse
import ctypes
import gc
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import cost_peers, cost_rows
from benchmarks.cost_rows import Row, Work
from benchmarks.timing import cpu_seconds, cuda_seconds, medians
from explainers import Explanandum
from explainers.evaluation.table import aligned
from explainers.explanandum.taps import counted
from explainers.memory import keep_freed

BATCH = 16
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
HEAD = ["row", "forward", "backward", "over floor", "own ms", "MiB", "images", "classes", "size"]


class Floor:
    """Bare passes of a classifier in full batches.

    Args:
        explanandum: The classifier, which gets its images in both memory layouts.
        batch: Number of images.
    """

    def __init__(self, explanandum: Explanandum, batch: int) -> None:
        images = torch.rand(batch, 3, *explanandum.input_size).to(explanandum.mean)
        self.explanandum, self.batch = explanandum, batch
        self.images = {name: images.to(memory_format=form) for name, form in LAYOUTS.items()}

    def contenders(self) -> dict[str, Callable[[], object]]:
        """A forward pass, and one with a backward pass to the images, in each layout."""
        return {
            f"{kind} {layout}": partial(self._run, images, layout == "channels_last", kind)
            for layout, images in self.images.items()
            for kind in ("forward", "both")
        }

    def seconds(self, found: dict[str, float], passes: Sequence[float]) -> float:
        """Seconds of forward and backward passes, from those of the contenders."""
        forward, both = (
            min(found[f"{kind} {layout}"] for layout in LAYOUTS) / self.batch
            for kind in ("forward", "both")
        )
        return passes[0] * forward + passes[1] * max(0.0, both - forward)

    def _run(self, images: Tensor, last: bool, kind: str) -> None:
        choice, self.explanandum.channels_last = self.explanandum.channels_last, last
        try:
            if kind == "forward":
                with torch.no_grad():
                    self.explanandum(images)
            else:
                shown = images.detach().requires_grad_()
                torch.autograd.grad(self.explanandum(shown).sum(), shown)
        finally:
            self.explanandum.channels_last = choice


def passes(explanandum: Explanandum, run: Callable[[], object]) -> list[int]:
    """Images in forward and in backward passes of a run."""
    with counted(explanandum.model) as counts:
        run()
    return counts


def memory(run: Callable[[], object], device: torch.device) -> float:
    """MiB that a second run takes beyond what was taken before; NaN where nothing tells."""
    run()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if sys.platform != "linux":
        return float("nan")
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that was freed counts again if it is used
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    before = _resident("VmRSS")
    run()
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split(f"{field}:")[1].split()[0]) / 1024


def measure(
    row: Row,
    real: Explanandum,
    light: Explanandum,
    images: int = 2,
    rounds: int = 3,
    batch: int = BATCH,
) -> dict[str, Any]:
    """All figures of a row.

    Args:
        row: The method or metric.
        real: The classifier of the cost over the floor.
        light: A light one, for what is the row's own.
        images: Number of images.
        rounds: Rounds in which the contenders take turns.
        batch: Number of images of a bare pass.
    """
    device = real.mean.device
    clock = cuda_seconds if device.type == "cuda" else cpu_seconds
    shown = torch.rand(2 * images, 3, *real.input_size, generator=torch.Generator().manual_seed(0))
    twice = shown.to(device)
    few = twice[:images]
    work, floor = row.make(real, 1), Floor(real, batch)
    work(few, 0)  # makes what a metric is given
    counts = passes(real, lambda: work(few, 1))
    peers = cost_peers.peers(row.name)
    others = {
        name: partial(peer, getattr(work, "method", None), real, few)
        for name, peer in peers.items()
    }
    runs: dict[str, Callable[[], object]] = {"run": lambda: work(few, 1), **others}
    if device.type == "cuda":
        runs["bf16"] = partial(_in_bf16, work, few)
    bare = floor.contenders() if sum(counts) else {}
    found = medians(rounds, clock, **runs, **bare)
    needed = floor.seconds(found, counts) if bare else 0.0
    result: dict[str, Any] = {
        **{"name": row.name, "kind": row.kind, "images": images},
        **{"forwards": counts[0] / images, "backwards": counts[1] / images},
        **{"seconds": found["run"] / images, "floor_seconds": needed / images},
        "over_floor": found["run"] / needed if needed else None,
        "peers": {name: found[name] / found["run"] for name in peers},
    }
    if device.type == "cuda":
        result["bf16_over_float32"] = found["bf16"] / found["run"]
        result["images_per_second"] = images / found["run"]
    return result | _own(row, light, twice, max(3, rounds), batch)


def _in_bf16(work: Work, images: Tensor) -> None:
    with torch.autocast(images.device.type, torch.bfloat16):
        work(images, 1)


def _own(row: Row, light: Explanandum, twice: Tensor, rounds: int, batch: int) -> dict[str, Any]:
    """What a row costs besides the classifier, and how that grows."""
    clock = cuda_seconds if twice.is_cuda else cpu_seconds
    images = len(twice) // 2
    few, work, floor = twice[:images], row.make(light, 1), Floor(light, batch)
    for some in (few, twice):
        work(some, 0)
    counts = passes(light, lambda: work(few, 1))
    runs: dict[str, Callable[[], object]] = {
        "once": lambda: work(few, 1),
        "images": lambda: work(twice, 1),
    }
    if row.kind == "method":
        runs["classes"] = lambda: work(few, 2)
    if row.size:
        larger = row.make(light, 2)
        runs["size"] = lambda: larger(few, 1)
    found = medians(rounds, clock, **runs, **floor.contenders())
    own = (found["once"] - floor.seconds(found, counts)) / images
    grown = {name: found[name] / found["once"] for name in runs if name != "once"}
    return {
        "own_ms": 1000 * own,
        "memory_mib": memory(runs["once"], twice.device),
        "growth": grown,
        "size": row.size,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Aligned Markdown table of the figures of `measure`."""
    body = []
    for row in rows:
        ratio, grown = row["over_floor"], row["growth"]
        cells = [row["name"], f"{row['forwards']:g}", f"{row['backwards']:g}"]
        cells += ["" if ratio is None else f"{ratio:.2f}"]
        cells += [f"{row['own_ms']:.2f}", f"{row['memory_mib']:.0f}"]
        cells += [f"{grown[name]:.2f}" if name in grown else "" for name in HEAD[-3:]]
        cells[-1] += f" ({row['size']})" if row["size"] else ""
        if "images_per_second" in row:
            cells += [f"{row['bf16_over_float32']:.2f}", f"{row['images_per_second']:.1f}"]
        body.append([*cells, ", ".join(f"{name} {x:.2f}" for name, x in row["peers"].items())])
    cuda = ["bf16", "images/s"] if rows and "images_per_second" in rows[0] else []
    return aligned([[*HEAD, *cuda, "peers"], *body])


def main(given: Sequence[str] | None = None) -> None:
    """Prints the table and writes the JSON after every row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", help="rows: configurations of methods, metrics")
    parser.add_argument("--quick", action="store_true", help="fewer steps, 112 px, one round")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--model", default="resnet18", help="timm name, random weights")
    parser.add_argument("--out", type=Path, default=Path("runs/costs.json"))
    chosen = parser.parse_args(given)
    rows = {r.name: r for r in (*cost_rows.methods(chosen.quick), *cost_rows.metrics(chosen.quick))}
    if unknown := sorted(set(chosen.only or ()) - set(rows)):
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(rows)}")
    torch.set_num_threads(1)
    keep_freed()  # as in `evaluate.py`
    size, rounds, images, batch = (112, 1, 1, 8) if chosen.quick else (224, 3, 2, BATCH)
    found = cost_rows.classifiers(chosen.model, size)
    for each in found.values():
        each.to(chosen.device)
    done: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    for name in chosen.only or rows:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                real, light = cost_rows.defined(rows[name], found)
                done.append(measure(rows[name], real, light, images, rounds, batch))
            except (ValueError, ImportError) as error:
                left_out[name] = " ".join(str(error).split())
        text = {"settings": vars(chosen) | {"out": None}, "rows": done, "left_out": left_out}
        chosen.out.write_text(json.dumps(text, indent=1))
        print(f"{len(done) + len(left_out)} of {len(chosen.only or rows)}: {name}", file=sys.stderr)
    print(table(done))
    for name, reason in left_out.items():
        print(f"{name} is left out: {reason}")


if __name__ == "__main__":
    main()
