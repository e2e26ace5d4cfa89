"""Metrics inside torchmetrics' own classes: collections, wrappers, copies, saved states."""

import copy
import io
import pickle

import pytest
import torch
from torchmetrics import MeanMetric, MetricCollection, MetricTracker
from torchmetrics.wrappers import BootStrapper, Running

from explainers.metrics.localization import MAE, SoftAccuracy, SoftIoU
from explainers.metrics.localization_boxes import CropSaliency
from explainers.metrics.saliency import MaskSaliency
from explainers.metrics.segmentation import SegmentationScores
from tests import planted
from tests.metrics.test_missing import scene
from tests.metrics.test_processes import every_metric

MASKS = planted.quadrant_masks(8, 8)


def several():
    """Metrics whose states have one shape, two of them of one class."""
    return {"acc": SoftAccuracy(), "mae": MAE(), "iou": SoftIoU(), "same": SoftIoU()}


def batches(kind):
    """Three batches with equal values in all metrics at first, or throughout."""
    noise = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(0))
    maps = MASKS[torch.arange(6) % 4].clone()
    masks = maps.bool()
    if kind == "perfect at first":
        maps[2:] = noise[2:]
    if kind == "halves":
        maps[:] = 0.5
    if kind == "missing at first":
        maps[:2] = torch.nan
        maps[2:] = noise[2:]
    if kind == "noise":
        maps = noise
    for rows in torch.arange(6).split(2):
        yield {"index": rows, "maps": maps[rows], "mask": masks[rows], "preds": "of another"}


def alone(metric, data):
    metric = metric.clone()
    for batch in data:
        metric.update(**batch)
    return metric.compute()


KINDS = ["perfect at first", "perfect", "halves", "missing at first", "noise", "none"]


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "copied",
    [lambda m: m, copy.deepcopy, MetricCollection.clone, lambda m: pickle.loads(pickle.dumps(m))],
    ids=["itself", "deepcopy", "clone", "pickle"],
)
def test_no_two_metrics_share_a_state(kind, copied):
    metrics = several()
    data = [] if kind == "none" else list(batches(kind))
    if kind == "none":
        empty = {"index": torch.arange(0), "maps": torch.ones(0, 8, 8), "mask": torch.ones(0, 8, 8)}
        data = [empty, *batches("noise")]
    expected = {n: float(next(iter(alone(m, data).values()))) for n, m in metrics.items()}
    collection = copied(MetricCollection(metrics))
    for _ in range(2):
        for i, batch in enumerate(data):
            if i == 1:
                collection = copied(collection)  # after the groups are formed
            collection.update(**batch)
        assert len(collection.compute_groups) == len(metrics)
        found = {n: float(next(iter(m.compute().values()))) for n, m in collection.items()}
        assert found == pytest.approx(expected, nan_ok=True, abs=0)
        states = [id(m.values) for m in collection.values(copy_state=False)]
        assert len(set(states)) == len(metrics)
        collection.reset()


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_nested_named_and_grown_collections():
    data = list(batches("perfect at first"))
    inner = MetricCollection([SoftAccuracy(), SoftIoU()], prefix="in/")
    outer = MetricCollection([inner, MetricCollection([MAE()], postfix="/out")], prefix="test/")
    for batch in data:
        outer.update(**batch)
    expected = {
        "test/in/SoftAccuracy": alone(SoftAccuracy(), data)["SoftAccuracy"],
        "test/in/SoftIoU": alone(SoftIoU(), data)["SoftIoU"],
        "test/MAE/out": alone(MAE(), data)["MAE"],
    }
    assert outer.compute() == expected
    grown = MetricCollection([SoftAccuracy()])
    grown.update(**data[0])
    grown.add_metrics(MAE())
    for batch in data[1:]:
        grown.update(**batch)
    assert grown.compute() == {
        "SoftAccuracy": expected["test/in/SoftAccuracy"], "MAE": alone(MAE(), data[1:])["MAE"],
    }  # fmt: skip


def test_every_metric_at_once():
    inputs = scene()
    index, label = torch.arange(3), inputs["targets"].int().argmax(1)
    named = {f"{type(m).__name__}{i}": m for i, m in enumerate(every_metric())}
    for metric in every_metric():  # and each twice
        named[f"again/{type(metric).__name__}{metric.names[0]}".replace(".", "")] = metric
    named["mean"] = MeanMetric()
    collection = MetricCollection(named)
    with torch.no_grad():
        for rows in ([0, 1], [2]):
            part = {k: v[rows] if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
            collection.update(
                index=index[rows], label=label[rows], value=torch.tensor(float(len(rows))), **part
            )
    assert len(collection.compute_groups) == len(named)
    for name, metric in named.items():
        if name == "mean":
            assert metric.compute() == 1.5
            continue
        expected = metric.clone()
        expected.reset()
        for rows in ([0, 1], [2]):
            part = {k: v[rows] if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
            expected.update(index[rows], label[rows], **part)
        for figure, value in expected.compute().items():
            assert metric.compute()[figure].item() == pytest.approx(
                value.item(), abs=0, nan_ok=True
            )


@pytest.mark.parametrize("of", [lambda m: m, MetricCollection], ids=["alone", "collection"])
def test_a_call_returns_the_value_of_its_batch(of):
    data = list(batches("noise"))
    metric = of(SoftIoU())
    for batch in data:
        assert metric(**batch) == alone(SoftIoU(), [batch])
    assert metric.compute() == alone(SoftIoU(), data)
    metric.reset()
    metric.update(**data[1])
    assert metric.compute() == alone(SoftIoU(), data[1:2])


def test_states_survive_saving_merging_and_moving_in_half_precision():
    data = list(batches("noise"))
    expected = alone(SoftIoU(), data)
    metric, rest = SoftIoU(), SoftIoU()
    assert metric.state_dict() == {}
    metric.persistent(True)
    metric.update(**data[0])
    buffer = io.BytesIO()
    torch.save(metric.state_dict(), buffer)
    buffer.seek(0)
    loaded = SoftIoU()
    loaded.persistent(True)
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    for changed in (loaded.to(torch.bfloat16), loaded.half(), loaded.set_dtype(torch.half)):
        assert [state.dtype for state in changed.values] == [torch.float64]
        assert [state.dtype for state in changed.index] == [torch.int64]
    for batch in data[1:]:
        rest.update(**batch)
    loaded.merge_state(SoftIoU())
    assert loaded.compute() == alone(SoftIoU(), data[:1])
    loaded.merge_state(rest)
    assert loaded.compute() == expected
    joined = MetricCollection([SoftIoU(), MAE()])
    joined.update(**data[0])
    other = joined.clone()
    other.reset()
    for batch in data[1:]:
        other.update(**batch)
    for name, metric in joined.items():
        metric.merge_state(other[name])
    assert joined.compute() == {**expected, **alone(MAE(), data)}


def test_wrappers():
    data = list(batches("noise"))
    tracker = MetricTracker(MetricCollection([SoftIoU(), MAE()]), maximize=[True, False])
    for batch in data:
        tracker.increment()
        tracker.update(**batch)
    best, step = tracker.best_metric(return_step=True)
    values = [float(alone(SoftIoU(), [batch])["SoftIoU"]) for batch in data]
    assert best["SoftIoU"] == pytest.approx(max(values), abs=1e-7)
    assert step["SoftIoU"] == values.index(max(values))
    running = Running(SoftIoU(), window=2)
    for batch in data:
        running.update(**batch)
    assert running.compute() == alone(SoftIoU(), data[1:])
    torch.manual_seed(0)
    resampled = BootStrapper(SoftIoU(), num_bootstraps=9)
    with pytest.raises(ValueError, match="index must name each image of the batch once"):
        resampled.update(**data[0])


def test_two_of_one_class_with_other_settings():
    images, targets = planted.scenes(4, (8, 8))
    metrics = {
        "softmax": MaskSaliency(),
        "model": MaskSaliency("model"),
        "middle": CropSaliency(alpha=0.5),
        "whole": CropSaliency(alpha=0.0),
        "segmentation": SegmentationScores(),
    }
    collection = MetricCollection(metrics)
    inputs = {
        "images": images, "maps": MASKS.clone(), "mask": MASKS > 0, "targets": targets,
        "explanandum": planted.explanandum(multi_label=True),
    }  # fmt: skip
    collection.update(torch.arange(4), torch.arange(4), **inputs)
    found = {name: next(iter(m.compute().values())).item() for name, m in collection.items()}
    assert len(set(found.values())) == len(metrics)
    for name, metric in metrics.items():
        again = metric.clone()
        again.reset()
        again.update(torch.arange(4), torch.arange(4), **inputs)
        assert next(iter(again.compute().values())).item() == found[name]
