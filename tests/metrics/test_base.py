import multiprocessing

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torchmetrics import MetricCollection

from explainers.metrics.base import PerImageMetric, pixel_sum
from explainers.metrics.localization import MAE, SoftIoU
from explainers.metrics.seconds import Seconds
from tests import planted


class ClassMean(PerImageMetric):
    names = ("mean", "target")
    needs = ("maps", "targets")
    per_class = True
    higher_is_better = {"mean": True, "target": False}  # noqa: RUF012

    def score(self, maps, targets):
        return {"target": targets.int().argmax(1), "mean": maps.mean(dim=(1, 2))}


def data(count=23, size=(224, 224)):
    maps = torch.rand(count, *size, generator=torch.Generator().manual_seed(0))
    return torch.arange(count) * 3, maps, maps.roll(1, 0) > 0.5


def test_any_order_and_batching_gives_the_same_bits():
    index, maps, mask = data()
    results = []
    for size, order in (
        (1, range(23)),
        (4, range(22, -1, -1)),
        (23, torch.randperm(23).tolist()),
        (7, [*range(23), 0, 5]),
    ):
        metric = MetricCollection([SoftIoU(), MAE()], compute_groups=False)
        for rows in torch.tensor([*order]).split(size):
            metric.update(index=index[rows], maps=maps[rows], mask=mask[rows], labels="for others")
        results.append({name: value.item() for name, value in metric.compute().items()})
    assert all(result == results[0] for result in results)
    assert results[0]["SoftIoU"] != results[0]["MAE"]


def test_pixel_sums_do_not_depend_on_threads():
    planes = torch.rand(3, 224, 224, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    threads, sums = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        sums += [
            pixel_sum(planes),
            torch.cat([pixel_sum(p[None]) for p in planes]),
            pixel_sum(planes.mT.clone().mT),
        ]
    torch.set_num_threads(threads)
    assert all(torch.equal(s, sums[0]) for s in sums)


def test_rows_are_distinct_sorted_and_averaged_within_an_image():
    metric = ClassMean()
    maps = torch.tensor([8.0, 1.0, 3.0, 8.0])[:, None, None].expand(4, 2, 2)
    labels = torch.tensor([0, 2, 1, 0])
    for rows in ([0, 1, 2], [3]):
        metric.update(
            torch.tensor([9, 4, 4, 9])[rows], labels[rows], maps=maps[rows],
            targets=torch.eye(4)[labels[rows]],
        )  # fmt: skip
    index, columns = metric.per_image()
    assert index.tolist() == [[4, 1], [4, 2], [9, 0]]
    assert columns["mean"].tolist() == [3, 1, 8]
    assert metric.compute() == {"mean": 5.0, "target": 0.75}
    with pytest.raises(ValueError, match="needs label"):
        metric.update(torch.tensor([9]), maps=maps[:1], targets=torch.eye(4)[:1])


def test_repeated_rows_that_differ_are_settled_by_value_not_by_order():
    rows, values = torch.tensor([[1, -1], [1, -1]]), torch.tensor([[0.5], [0.25]])
    results = []
    for order in ([0, 1], [1, 0]):
        metric = SoftIoU()
        metric.add(rows[order], values[order])
        with pytest.warns(UserWarning, match="image 1 came several times with other values"):
            results.append(metric.compute()["SoftIoU"].item())
    assert results == [0.25, 0.25]


def test_an_index_that_counts_within_the_batch_is_noticed():
    metric, seconds = SoftIoU(), Seconds()
    _, maps, mask = data(4, (8, 8))
    for rows in ([0, 1], [2, 3]):
        metric.update(torch.arange(2), maps=maps[rows], mask=mask[rows])
        seconds.update(torch.arange(2), seconds=torch.rand(2) + rows[0])
    with pytest.warns(UserWarning, match="place in the data set, not in its batch"):
        metric.compute()
    seconds.compute()  # a second measurement of the same image may differ


def test_missing_values_are_missing():
    metric = SoftIoU()
    metric.update(
        torch.tensor([0, 1]),
        maps=torch.ones(2, 2, 2),
        mask=torch.stack([torch.ones(2, 2), torch.zeros(2, 2)]),
    )
    assert metric.compute() == {"SoftIoU": 1.0}
    metric.reset()
    metric.update(torch.tensor([0]), maps=torch.ones(1, 2, 2), mask=torch.zeros(1, 2, 2))
    assert metric.compute()["SoftIoU"].isnan()


def test_errors_say_what_is_needed():
    with pytest.raises(ValueError, match="SoftIoU needs mask; got only maps"):
        SoftIoU().update(torch.tensor([0]), maps=torch.ones(1, 2, 2), mask=None)
    metric = SoftIoU()
    metric.score = lambda maps, mask: {"IoU": maps.sum(dim=(1, 2))}
    with pytest.raises(ValueError, match=r"must return \('SoftIoU',\), got \('IoU',\)"):
        metric.measure(maps=torch.ones(1, 2, 2), mask=torch.ones(1, 2, 2))


def test_logits_are_computed_on_demand():
    class Logits(PerImageMetric):
        names = ("first",)
        needs = ("logits",)

        def score(self, logits):
            return {"first": logits[:, 0]}

    images, _ = planted.scenes(2, (4, 4))
    explanandum = planted.explanandum()
    value = Logits().measure(images=images, explanandum=explanandum)["first"]
    assert torch.equal(value, explanandum(images)[:, 0].double())
    assert not value.requires_grad


def test_empty_metric_has_no_rows():
    index, columns = SoftIoU().per_image()
    assert index.shape == (0, 2)
    assert columns["SoftIoU"].shape == (0,)


def work(rank, world, path, results):
    torch.set_num_threads(1)  # a forked process must not use its parent's thread pool
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world)
    index, maps, mask = data(5, (16, 16))
    rows = torch.tensor(
        [[0, 2, 4], [1, 3, 0], []][rank], dtype=torch.int64
    )  # padded as samplers do; one has none
    metric = SoftIoU()
    if len(rows):
        metric.update(index[rows], maps=maps[rows], mask=mask[rows])
    results.put((metric.compute()["SoftIoU"].item(), sum(map(len, metric.index))))
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.filterwarnings(
    "ignore:.*fork:DeprecationWarning", "ignore:.*``compute`` method.*before"
)
def test_any_number_of_processes_gives_the_same_bits(tmp_path, world):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [
        context.Process(target=work, args=(rank, world, tmp_path / "store", results))
        for rank in range(world)
    ]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    index, maps, mask = data(5, (16, 16))
    alone = SoftIoU()
    alone.update(index, maps=maps, mask=mask)
    assert {value for value, _ in found} == {alone.compute()["SoftIoU"].item()}
    assert sum(rows for _, rows in found) == 6  # each gets its own rows back


def test_values_survive_as_float64():
    metric = SoftIoU()
    metric.add(torch.tensor([[0, -1]]), torch.tensor([[1 / 3]], dtype=torch.double))
    assert metric.compute()["SoftIoU"].item() == 1 / 3
    assert np.isnan(metric.aggregate({"SoftIoU": np.array([np.nan])})["SoftIoU"])
