"""What a large test costs after its last image: resume, merge, summarize and write the page.

    python -m benchmarks.summary --images 50000

A file of random scores stands for the test. Printed are the CPU seconds of each part, and the peak
of the process's memory above what the imports take.
"""

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from explainers.evaluation import report
from explainers.evaluation.scorefile import ScoreFile
from explainers.evaluation.summary import summarize
from explainers.metrics.base import PerImageMetric
from explainers.metrics.classification import MaskedClassification
from explainers.metrics.complexity import Complexity, Sparseness
from explainers.metrics.faithfulness import RISECurves, SLOCCurves
from explainers.metrics.localization import MAE, SoftAccuracy, SoftIoU
from explainers.metrics.seconds import Seconds

BATCH = 500  # images written at a time


def metrics() -> list[PerImageMetric]:
    """Metrics with 20 columns and 20 figures besides the time, six of which are no means."""
    plain = [RISECurves(), SLOCCurves(), SoftAccuracy(), SoftIoU(), MAE(), Complexity()]
    return [*plain, Sparseness(), MaskedClassification(), Seconds()]


def write(folder: Path, settings: dict[str, Any], images: int) -> None:
    """Writes random scores of some images into an empty folder, as processes of a test do."""
    generator = np.random.default_rng(0)
    columns = settings["columns"]
    counts = {c for c in columns if c.startswith(("masked_", "clean_"))}
    file = ScoreFile(folder, settings)
    for start in range(0, images, BATCH):
        records = []
        for index in range(start, min(start + BATCH, images)):
            name, target = f"class_{index % 1000:04d}/image_{index:08d}.jpg", str(index % 1000)
            for shift, method in enumerate(settings["methods"]):
                values = generator.random(len(columns)) + shift / 50
                record = dict(zip(columns, values.tolist(), strict=True))
                record |= {c: float(generator.integers(2)) for c in counts}
                if generator.random() < 0.001:
                    record |= dict.fromkeys(columns[:3])
                records.append(
                    {"index": index, "name": name, "target": target, "method": method}
                    | {"identity": f"{index:016x}", **record}
                )
        file.append(records)
    file.close()


@contextlib.contextmanager
def timed(part: str, seconds: dict[str, float]) -> Iterator[None]:
    """Adds the CPU seconds of the block under the name of the part."""
    start = time.process_time()
    yield
    seconds[part] = time.process_time() - start


def memory(field: str) -> float:
    """Resident size of this process in MB: "VmRSS" now, "VmHWM" at its peak."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split(f"{field}:")[1].split()[0]) / 1e3


def main() -> None:
    """Prints one line for each part, and the sum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--methods", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="keep the scores there, and use them again")
    given = parser.parse_args()
    used = metrics()
    columns = list(dict.fromkeys(name for metric in used for name in metric.names))
    settings = {
        "columns": columns,
        "methods": {f"method_{i}": {} for i in range(given.methods)},
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        if not (folder / "scores.csv").exists():
            write(folder, settings, given.images)
        seconds: dict[str, float] = {}
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
        before = memory("VmRSS")
        with timed("resume", seconds):
            file = ScoreFile(folder, settings)
        with timed("merge", seconds):
            rows = file.merge()
        with timed("summarize", seconds):
            summary = summarize(rows, used, file.methods)
        summary |= {"classifier": None, "explanandum": "-", "data": "-", "target": "predicted"}
        summary |= {"precision": "32-true", "versions": {}}
        with timed("page", seconds), contextlib.redirect_stdout(io.StringIO()):
            summary |= {"masks": file.methods, "costs": dict.fromkeys(file.methods)}
            summary |= {"left_out": {}, "unread": 0}
            text = report.page(summary, rows, used, (224, 224))
            report.write(folder, summary, text, rows)
        file.close()
        size = (folder / "scores.csv").stat().st_size / 1e6
    count = f"{given.images:,} images x {given.methods} methods x {len(columns)} columns"
    print(f"{count}, {size:.0f} MB")
    for part, value in seconds.items():
        print(f"{part:10} {value:6.1f} s")
    print(f"{'together':10} {sum(seconds.values()):6.1f} s, {memory('VmHWM') - before:.0f} MB")


if __name__ == "__main__":
    main()
