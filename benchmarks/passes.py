"""Milliseconds an image of the bare passes of a classifier, as memory and `--score.passes` have it.

    OMP_NUM_THREADS=1 python -m benchmarks.passes --model resnet18

CPU time of one thread, or on CUDA that of events; the median of five rounds. What is done about
memory cannot be undone, so the row in which it is returned comes first.
"""

import argparse
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.timing import cpu_seconds, cuda_seconds, medians
from explainers import Explanandum
from explainers.evaluation.precisioncheck import Passes, faster
from explainers.evaluation.table import aligned
from explainers.memory import keep_freed

ROUNDS, BATCHES = 5, (1, 16, 64)


def milliseconds(explanandum: Explanandum, size: int) -> dict[str, float]:
    """Milliseconds an image, forward in batches of each size, and forward and backward in 16."""
    device = explanandum.mean.device
    batches = {count: torch.rand(count, 3, size, size, device=device) for count in BATCHES}

    def forward(count: int) -> None:
        with torch.no_grad():
            explanandum(batches[count])

    def both() -> None:
        images = batches[16].clone().requires_grad_()
        explanandum(images)[:, 0].sum().backward()  # type: ignore[no-untyped-call]

    clock = cuda_seconds if device.type == "cuda" else cpu_seconds
    found = {}
    for count in BATCHES:  # not in turns: what was freed before decides where memory comes from
        spent = medians(ROUNDS, clock, run=lambda count=count: forward(count))["run"]
        found[f"forward, {count}"] = 1000 * spent / count
    return found | {"both, 16": 1000 * medians(ROUNDS, clock, run=both)["run"] / 16}


def main(given: Sequence[str] | None = None) -> None:
    """Prints the table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", default="resnet18", help="model of an Explanandum, such as timm's"
    )
    parser.add_argument("--size", type=int, default=224, help="pixels of an image's sides")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path("runs/passes.json"))
    chosen = parser.parse_args(given)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", ".*has random weights")
    subject = Explanandum(chosen.model).to(chosen.device)
    rows = {"plain, memory returned": milliseconds(subject, chosen.size)}
    if not keep_freed():
        del rows["plain, memory returned"]  # which another library or the user decides
    kinds: tuple[Passes, ...] = ("plain", "folded", "compiled")
    for passes in kinds:
        try:
            changed = faster(subject, passes, (chosen.size, chosen.size))
        except ValueError as error:
            print(error)
            continue
        rows[passes] = milliseconds(subject, chosen.size)
        if changed:
            changed.undo()
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    settings = {"model": chosen.model, "size": chosen.size, "device": chosen.device}
    chosen.out.write_text(json.dumps({"settings": settings, "milliseconds": rows}, indent=1))
    names = list(rows["plain"])
    body = [[row, *(f"{found[name]:.1f}" for name in names)] for row, found in rows.items()]
    print(aligned([["ms an image", *names], *body]))


if __name__ == "__main__":
    main()
