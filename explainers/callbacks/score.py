"""The Score callback: all methods on the same batches, by the same metrics, in one table."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from explainers.base import Explainer
from explainers.callbacks.accuracy import CheckClassifier
from explainers.callbacks.dashboard import log_results, write_origin
from explainers.callbacks.judge import data_title
from explainers.callbacks.progress import show
from explainers.evaluation import precisioncheck, report
from explainers.evaluation import published as papers
from explainers.evaluation.attempts import FirstFailures, attempt, autocast, strictly, unread
from explainers.evaluation.dataimages import DataImages
from explainers.evaluation.keeping import Keep, Keeper
from explainers.evaluation.measure import batch_inputs, check_columns, default_metrics, usable
from explainers.evaluation.panels import Panels
from explainers.evaluation.provenance import describe_run, explanandum_name, versions
from explainers.evaluation.rows import build_rows, check_names
from explainers.evaluation.sanity import sanity_rows
from explainers.evaluation.scorefile import ERROR, IDENTITY, ScoreFile, printable
from explainers.evaluation.scores import Scores
from explainers.evaluation.summary import raise_if_failed, summarize
from explainers.evaluation.targets import TargetChoice, check_choice, choose_all_images, take
from explainers.explanandum import Explanandum
from explainers.learned import is_trained
from explainers.metrics.base import PerImageMetric
from explainers.metrics.passes import count_inpaintings
from explainers.naming import class_path, method_name
from explainers.options import check_choices


class Score(Callback):
    """Scores the explainer under test and any number of others on the test images.

    The run folder gets `scores.csv`, with one row for each image, target and method, after every
    batch. An interrupted run continues where it stopped. At the end, `summary.json` and `table.md`
    are computed from scores.csv alone, and `panels.png` is drawn. `settings.json` keeps other runs
    out of the folder. Means are logged as `test/<method>/<figure>`.

    Maps that are not masks are min-max scaled one by one for the metrics that need [0, 1]. The
    table marks them.

    Args:
        methods: Further methods by name: their class and arguments without the explanandum, which
            is that of the module under test.
        checkpoints: Checkpoint files of further trained explainers of this explanandum, by name.
        metrics: Metrics to compute. None takes soft accuracy, soft IoU, MAE, mask saliency, the
            classification of masked images and the time. Metrics whose inputs the data lack are
            left out with a warning.
        target: Classes to explain: "predicted", "label" or (single-label) "second", the runner-up.
        sanity: Whether to add the rows constant_0, constant_05, constant_1, random,
            centred_gaussian and, if the data have masks, ground_truth, except one named like the
            module under test.
        name: Row of the module under test. None takes `method_name`, such as "grad_cam".
        output_dir: Run folder. None takes that of the logger, or runs/score without a logger.
        bootstrap: Number of bootstrap resamples for the 95 % intervals.
        interval: Kind of the intervals: "percentile", or "bca", bias-corrected and accelerated.
        panels: Number of images on the comparison sheet. 0 draws none.
        panels_kept: Share of the pixels in a further picture of each map on the sheet: the highest
            ones, with the probability of the class on it. None draws none.
        keep: Maps and curves to keep in the folder `kept`: those of the first 50 images, which
            report.html shows, "shown"; those of all images, "maps", "curves" or "maps,curves"; or
            "nothing".
        one_by_one: Whether to explain and score images one at a time. The results then do not
            depend on interruptions, the batch size and the number of processes, not even in the
            last bits, in which most classifiers' outputs depend on the size of the batch. None does
            so on the CPU, where it can take twice as long with a small classifier.
        errors: Whether an image for which a method raises an error only lacks its values, "skip",
            or the run ends, "raise". The errors are kept in scores.csv and errors.csv. A later run
            in the folder tries such images again.
        published: Tables of a paper whose figures are written beside those of the run, such as
            "configs/papers/sloc/published.yaml#table_14".
        check_precision: Number of images that a mixed precision or a faster classifier scores once
            more in float32, exactly. The table's notes say how far their figures differ.
        passes: How the classifier's passes are computed: "plain"; "folded", where convolutions do
            the work of batch norms, see `folding.Folding`; or "compiled", see
            `compiling.Compiling`. `check_precision` is then at least 8.

    Raises:
        ValueError: If a name occurs twice, a number is out of range, or two metrics have the same
            column.
    """

    def __init__(
        self,
        methods: dict[str, Callable[[Explanandum], Explainer]] | None = None,
        checkpoints: dict[str, str] | None = None,
        metrics: list[PerImageMetric] | None = None,
        target: TargetChoice = "predicted",
        sanity: bool = True,
        name: str | None = None,
        output_dir: str | None = None,
        bootstrap: int = 1000,
        interval: Literal["percentile", "bca"] = "percentile",
        panels: int = 8,
        keep: Keep = "shown",
        one_by_one: bool | None = None,
        errors: Literal["skip", "raise"] = "skip",
        published: str | None = None,
        panels_kept: float | None = None,
        check_precision: int = 0,
        passes: precisioncheck.Passes = "plain",
    ) -> None:
        check_choices(type(self), locals())
        super().__init__()
        if min(bootstrap - 1, panels, check_precision) < 0:
            given = f"got {bootstrap}, {panels} and {check_precision}"
            raise ValueError(f"bootstrap must be >= 1, panels and check_precision >= 0, {given}")
        self.methods, self.checkpoints = dict(methods or {}), dict(checkpoints or {})
        check_names([*self.checkpoints, *self.methods, *([name] if name else ())], sanity)
        self.metrics = default_metrics() if metrics is None else list(metrics)
        check_columns(self.metrics)
        precisioncheck.check_passes(passes, self.metrics)
        self.target, self.sanity, self.name = target, sanity, name
        self.output_dir, self.bootstrap, self.panels = output_dir, bootstrap, panels
        self.interval, self.keep, self.panels_kept = interval, keep, panels_kept
        self.one_by_one, self.errors, self.passes = one_by_one, errors, passes
        self.check_precision = check_precision if passes == "plain" else max(check_precision, 8)
        self.published = papers.read(published) if published else []
        self._file: ScoreFile | None = None
        self._closing = ExitStack()
        self._failures = FirstFailures()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Builds all methods. If none of them was trained, all images of a folder are tested."""
        if stage != "test":
            return
        if not isinstance(pl_module, Explainer):
            raise ValueError(f"Score tests an Explainer, got {type(pl_module).__name__}")
        check_choice(self.target, pl_module.explanandum)
        own = self.name or method_name(class_path(type(pl_module)))
        subject = pl_module.explanandum
        others, self._undefined = build_rows(subject, self.checkpoints, self.methods)
        if own in others:
            raise ValueError(
                f"two rows are called {own!r}; give Score another name for the module under test"
            )
        if self.sanity:
            rows = sanity_rows(pl_module.explanandum)
            others |= {name: method for name, method in rows.items() if name != own}
        self._explainers: dict[str, Explainer] = {own: pl_module, **others}
        count_inpaintings(self.metrics, self._explainers.values())
        if not any(is_trained(type(method)) for method in self._explainers.values()):
            choose_all_images(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Moves all methods to the device of the module and finds the run folder."""
        with torch.inference_mode(False):  # weights must stay differentiable
            for explainer in self._explainers.values():
                explainer.to(pl_module.device).eval()
        alone = self.one_by_one
        self._alone = pl_module.device.type == "cpu" if alone is None else alone
        folder = trainer.log_dir if trainer.loggers else None
        self._folder = Path(self.output_dir or folder or "runs/score")

    def _begin(self, trainer: Trainer, batch: dict[str, Any]) -> ScoreFile:
        """Opens the file. The first batch decides which methods and metrics the data can serve."""
        if missing := {"image", "name", "index"} - batch.keys():
            raise ValueError(f"the test batches lack {sorted(missing)}; got {sorted(batch)}")
        if "mask" not in batch:
            self._explainers = {n: e for n, e in self._explainers.items() if not e.needs_masks}
        self._used = usable(self.metrics, batch)
        self._size = (batch["image"].shape[-2], batch["image"].shape[-1])
        self._data = DataImages(trainer, "test")
        settings = {
            "target": self.target,
            **describe_run(self._explainers, self._used),
            "data": {**self._data.settings, "image_size": list(self._size)},
            "precision": precisioncheck.precision_name(trainer, self.passes),
        }
        self._data.check_stored(self._explainers)
        sheet = self._folder / "panels.png"
        self._panels = Panels(sheet, self.panels, self._explainers, self.panels_kept)
        process, first = (trainer.global_rank, trainer.world_size), trainer.is_global_zero
        self._file = file = ScoreFile(self._folder, settings, *process)
        self._closing.callback(file.close)
        checked = (trainer, self.check_precision, bool(file.done))
        asked = (self._explanandum(), self.passes, self._size)
        self._precision = precisioncheck.PrecisionCheck(self._folder, *checked, *asked)
        self._closing.callback(self._precision.close)
        self._data.check(file.identities, printable, self._folder)
        self._keeper = Keeper(self._folder, self.keep, self._explainers, settings, first)
        if file.done:
            rank_zero_info(f"resuming: {len(file.done)} images have scores in {self._folder}")
            if lacking := self._keeper.lacking(file.done):
                rank_zero_warn(lacking)
        return file

    @torch.no_grad()
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Explains and scores the images of the batch that have no rows yet, by every method."""
        self._file = self._file or self._begin(trainer, batch)
        done = self._file.done
        rows = [row for row, name in enumerate(batch["name"]) if printable(name) not in done]
        for name, index in zip(batch["name"], batch["index"].tolist(), strict=True):
            if done.get(printable(name), index) != index:
                raise ValueError(f"two test images are called {name!r}: names must be unique")
        size = 1 if self._alone else max(1, len(rows))
        batch = {**batch, "image": batch["image"].float()}
        for start in range(0, len(rows), size):
            with autocast(trainer):
                self._score(trainer, self._file, take(batch, rows[start : start + size]))

    def _score(self, trainer: Trainer, file: ScoreFile, batch: dict[str, Any]) -> None:
        inputs = batch_inputs(batch, self._explanandum(), self.target)
        inputs |= {"keeper": self._keeper, "names": batch["name"]}
        score = attempt if self.errors == "skip" else strictly
        records: list[dict[str, Any]] = []
        maps, found = {}, {}
        for name, explainer in self._explainers.items():
            show(trainer, name)
            self._keeper.method = name
            explainer.observe(batch)
            found[name], maps[name], failed = score(explainer, self._used, inputs)
            records += [
                {"row": row, "target": ids, "method": name, ERROR: failed.get(row), **v}
                for (row, ids), v in found[name].items()
            ]
            for row, error in failed.items():
                self._failures.tell(name, batch["name"][row], error)
        self._precision.add(self._explainers, self._used, batch, self.target, found)
        ids = [self._data.identity(index) for index in batch["index"].tolist()]
        for record in records:
            row = record["row"]
            record |= {"index": int(batch["index"][row]), "name": batch["name"][row]}
            record[IDENTITY] = ids[row]
        self._keeper.write(batch, inputs, ids)
        # A stable sort by image keeps the order of its rows.
        file.append(sorted(records, key=lambda record: record["row"]))
        if trainer.is_global_zero:
            self._panels.add(trainer, batch["image"], maps, inputs)

    def _explanandum(self) -> Explanandum:
        return next(iter(self._explainers.values())).explanandum

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merges the rows of all processes; the first one then summarizes, prints and logs them."""
        trainer.strategy.barrier("Score")
        skipped, rows = unread(trainer), None
        if trainer.is_global_zero and self._file is not None:
            rows = self._file.merge(skipped)
        trainer.strategy.barrier("Score merged")  # the others need not wait for the summary
        if self._file is not None and rows is not None:
            self._panels.draw(trainer)
            self._keeper.close()
            self._report(trainer, self._file, rows, skipped)

    def _report(
        self, trainer: Trainer, file: ScoreFile, rows: Scores, skipped: dict[str, str]
    ) -> None:
        checks = [c.judged for c in trainer.callbacks if isinstance(c, CheckClassifier)]  # type: ignore[attr-defined]
        methods = [*file.methods, *self._undefined]
        summary = {
            "explanandum": explanandum_name(self._explanandum()),
            "classifier": checks[0] if checks else None,
            "data": data_title(trainer),
            "target": self.target,
            "precision": self._precision.precision,
            "precision_check": self._precision.note(),
            **summarize(rows, self._used, methods, self.bootstrap, self.interval),
            "masks": [name for name, each in self._explainers.items() if each.is_mask],
            "costs": {name: each.cost for name, each in self._explainers.items()},
            **{"left_out": self._undefined, "unread": len(skipped)},
            "versions": versions(),
        }
        text = report.page(summary, rows, self._used, self._size)
        text += papers.beside(self.published, summary)
        write_origin(trainer, self._folder)
        means = report.write(self._folder, summary, text, rows)
        log_results(trainer, self._folder, means)
        raise_if_failed(rows, file.methods)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Lets other runs write the folder."""
        self.teardown(trainer, pl_module, "test")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lets other runs write the folder."""
        self._closing.close()
        self._file = None
