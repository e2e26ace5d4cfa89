import torch

from explainers.metrics.seconds import Seconds


def test_seconds_are_passed_on_and_averaged_over_distinct_images():
    metric = Seconds()
    metric.update(torch.tensor([4, 5]), seconds=torch.tensor([1.5, 2.5]))
    metric.update(torch.tensor([5, 6]), seconds=torch.tensor([2.5, 5.0]), maps=None)
    index, columns = metric.per_image()
    assert index.tolist() == [[4, -1], [5, -1], [6, -1]]
    assert columns["seconds"].tolist() == [1.5, 2.5, 5.0]
    assert metric.compute() == {"seconds": 3.0}
    assert not metric.direction("seconds")
