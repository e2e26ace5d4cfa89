"""Optimizers of what learns, their schedules, and seeds that name their step."""

import pytest
import torch
from torch import nn

from explainers import optimizers
from explainers.optimizers import ADAM, PRODIGY, configure, warmup_cosine


class Module(nn.Module):
    """One weight that learns, one that does not, and a trainer that takes 100 steps."""

    class trainer:
        estimated_stepping_batches = 100

    def __init__(self):
        super().__init__()
        self.learns = nn.Parameter(torch.ones(2))
        self.stays = nn.Parameter(torch.ones(2), requires_grad=False)


def test_adamw_without_weight_decay_is_adam():
    module, twin = Module(), Module()
    ours = configure(module, ADAM)["optimizer"]
    adam = torch.optim.Adam([twin.learns], lr=1e-3)
    assert [p for group in ours.param_groups for p in group["params"]] == [module.learns]
    for optimizer, own in ((ours, module), (adam, twin)):
        for _ in range(5):
            optimizer.zero_grad()
            own.learns.pow(3).sum().backward()
            optimizer.step()
    assert torch.equal(module.learns, twin.learns)


def rates(options, steps):
    made = configure(Module(), options)
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return made["lr_scheduler"]["interval"], found


def test_the_cosine_schedule_warms_up_and_ends_at_zero():
    interval, found = rates({**ADAM, "lr": 2.0, "schedule": "cosine"}, 101)
    assert interval == "step"
    assert found[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert found[52] == pytest.approx(2 * warmup_cosine(52, 100))
    assert found[100] == pytest.approx(0)


def test_annealing_goes_by_epochs():
    interval, found = rates({**PRODIGY, "anneal_epochs": 4}, 5)
    assert interval == "epoch"
    assert found == pytest.approx([1.0, 0.853553, 0.5, 0.146447, 1e-6], rel=1e-5)


def test_a_constant_rate_needs_no_schedule():
    made = configure(Module(), {**PRODIGY, "schedule": "constant"})
    assert set(made) == {"optimizer"}
    assert made["optimizer"].param_groups[0]["weight_decay"] == PRODIGY["weight_decay"]


def test_the_defaults_are_complete():
    names = set(optimizers.OptimizerOptions.__annotations__)
    assert set(ADAM) == set(PRODIGY) == names


def test_the_linear_schedule_warms_up_over_a_fifth_of_the_steps():
    interval, found = rates({**ADAM, "lr": 2.0, "schedule": "linear"}, 101)
    assert interval == "step"
    assert found[0] == pytest.approx(0.1)
    assert found[19:21] == pytest.approx([2.0, 2.0])
    assert found[60] == pytest.approx(1.0)
    assert found[100] == 0


def test_the_step_schedule_divides_by_ten():
    interval, found = rates({**ADAM, "name": "sgd", "schedule": "step", "anneal_epochs": 2}, 5)
    assert interval == "epoch"
    assert found == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5])


def test_sgd_has_a_momentum():
    optimizer = configure(Module(), {**ADAM, "name": "sgd"})["optimizer"]
    assert type(optimizer) is torch.optim.SGD
    assert optimizer.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", -1.0), ("lr", float("nan")), ("weight_decay", -0.1), ("anneal_epochs", 0)],
)
def test_numbers_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=rf"optimizer\.{name} must be at least"):
        configure(Module(), {**PRODIGY, name: value})
