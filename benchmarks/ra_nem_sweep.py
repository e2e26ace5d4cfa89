"""Tables 7 to 9 of Ra-NEM: training time beside NEMt's, five seeds, and the number of samples k.

Everything that `train.py fit` takes can follow: a method, a classifier, data, the epochs. What is
there already is not trained again.

python benchmarks/ra_nem_sweep.py --out runs/ra_nem_sweep -c configs/recipes/shapes.yaml
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import stdev
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from explainers.checkpoint import read_checkpoint

SEEDS, SAMPLES, DEFAULT = (0, 1, 2, 3, 4), (1, 2, 4, 6, 8), 6
# What the paper has for ResNet50: table 7 (seconds), 8 (rounds), 9 (k: seconds, Faithfulness).
TABLE_7 = {"NEMt": 335, "Ra-NEM": 700}
TABLE_8 = (0.602, 0.581, 0.595, 0.597, 0.582)
TABLE_9 = {1: (252, 0.520), 2: (310, 0.560), 4: (463, 0.596), 6: (700, 0.607), 8: (967, 0.617)}


def variants() -> dict[str, list[str]]:
    """Flags of each training by its name."""
    seeds = {
        f"seed_{s}": ["--seed_everything", str(s), "--model.init_args.seed", str(s)] for s in SEEDS
    }
    samples = {f"k_{k}": ["--model.init_args.samples", str(k)] for k in SAMPLES if k != DEFAULT}
    return {**seeds, **samples, "nem_t": ["--model", "explainers.methods.nem_t.NEMt"]}


def run(program: str, *arguments: str) -> None:
    """Run a program of the project; its error ends the sweep."""
    subprocess.run([sys.executable, program, *arguments], check=True)


def sweep(out: Path, given: Sequence[str]) -> dict[str, tuple[float, dict[str, Any]]]:
    """Train what is missing and score all on the test images: seconds, Faithfulness by name."""
    for name, flags in variants().items():
        if not (out / name / "done").exists():
            run("train.py", "fit", *given, *flags, "--out", str(out / name))
            (out / name / "done").touch()
    paths = {name: str(out / name / "last.ckpt") for name in variants()}
    first, *others = paths
    curves = "explainers.metrics.faithfulness.RISECurves"
    score = {
        "sanity": False,
        "name": first,
        "target": "predicted",
        "checkpoints": {name: paths[name] for name in others},
        "metrics": [{"class_path": curves, "init_args": {"steps": 24}}],
    }
    (config,) = (out / first).rglob("config.yaml")  # beside the logs
    data = yaml.safe_load(config.read_text())["data"]
    (out / "test.yaml").write_text(yaml.safe_dump({"data": data, "score": score}))
    own = ("-c", "configs/evaluate.yaml", "-c", str(out / "test.yaml"), "--ckpt_path", paths[first])
    run("evaluate.py", "test", *own, "--out", str(out / "test"))
    rows = json.loads((out / "test" / "summary.json").read_text())["methods"]
    return {
        name: (read_checkpoint(path)["cost"]["seconds"], rows[name]["Faithfulness"])
        for name, path in paths.items()
    }


def tables(found: dict[str, tuple[float, dict[str, Any]]]) -> str:
    """The three tables in Markdown, the paper's figures for ResNet50 beside ours."""

    def row(*cells: Any) -> str:
        return f"| {' | '.join(map(str, cells))} |"

    def faithfulness(name: str) -> str:
        mean, (low, high) = (found[name][1][key] for key in ("mean", "ci95"))
        return f"{mean:.3f} ± {(high - low) / 2:.3f}"

    def seconds(name: str) -> str:
        return f"{found[name][0]:.0f}"

    names = {k: f"k_{k}" if k != DEFAULT else "seed_0" for k in SAMPLES}
    means = [found[f"seed_{s}"][1]["mean"] for s in SEEDS]
    lines = [
        f"Table 7: training, with {DEFAULT} samples",
        "",
        row("method", "seconds", "Faithfulness", "paper: seconds"),
        row("---", "---:", "---:", "---:"),
        row("NEMt", seconds("nem_t"), faithfulness("nem_t"), TABLE_7["NEMt"]),
        row("Ra-NEM", seconds("seed_0"), faithfulness("seed_0"), TABLE_7["Ra-NEM"]),
        "",
        f"Table 8: seeds; standard deviation {stdev(means):.3f}, in the paper {stdev(TABLE_8):.3f}",
        "",
        row("seed", "Faithfulness", "paper"),
        row("---", "---:", "---:"),
        *(row(s, faithfulness(f"seed_{s}"), TABLE_8[s]) for s in SEEDS),
        "",
        "Table 9: number of samples k",
        "",
        row("k", "seconds", "Faithfulness", "paper: seconds", "paper: Faithfulness"),
        row("---", "---:", "---:", "---:", "---:"),
        *(row(k, seconds(name), faithfulness(name), *TABLE_9[k]) for k, name in names.items()),
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ra_nem_sweep"))
    options, fit = parser.parse_known_args()
    report = tables(sweep(options.out, fit or ["-c", "configs/recipes/shapes.yaml"]))
    (options.out / "table.md").write_text(report)
    print(report)
