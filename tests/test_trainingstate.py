"""The training state of a stranger's checkpoint: no memory is overrun and no other file is lost."""

import pytest
import torch

from explainers.trainingstate import (
    check_like,
    check_schedulers,
    check_state,
    settle_optimizer,
)

GOOD = {
    "loops": {},
    "optimizer_states": [],
    "pytorch-lightning_version": "2.6.0",
    "callbacks": {},
}


def saved(**paths):
    state = {"dirpath": "/run", "best_model_path": "", "best_k_models": {}, **paths}
    return {**GOOD, "callbacks": {"ModelCheckpoint{'monitor': None}": state}}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"loops": None}, "holds weights without the state"),
        ({"pytorch-lightning_version": "1.0.0"}, "was written by Lightning '1.0.0'"),
        ({"pytorch-lightning_version": "newest"}, "was written by Lightning 'newest'"),
        ({"pytorch-lightning_version": None}, "was written by Lightning 'None'"),
        ({"pytorch-lightning_version": 2.6}, "was written by Lightning '2.6'"),
        ({"callbacks": None}, "is damaged: it lacks the states of the callbacks"),
        ({"callbacks": [1]}, "is damaged: it lacks the states of the callbacks"),
    ],
)
def test_what_no_fit_can_go_on_from(changes, told):
    checkpoint = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    with pytest.raises(ValueError, match=rf"^x\.ckpt {told}"):
        check_state(checkpoint, "x.ckpt")
    check_state(GOOD, "x.ckpt")


@pytest.mark.parametrize(
    "paths",
    [
        {"best_model_path": "/run/test-results"},
        {"best_model_path": "/run/fit.json"},
        {"last_model_path": "/run"},
        {"kth_best_model_path": "/run/../x.ckpt"},
        {"best_k_models": {"/run/test-results": torch.zeros(())}},
    ],
)
def test_nothing_but_checkpoints_may_be_deleted(paths):
    with pytest.raises(ValueError, match=r"^x\.ckpt lists '/"):
        check_state(saved(**paths), "x.ckpt")


def test_a_folder_is_not_deleted_whatever_its_name(tmp_path):
    folder = tmp_path / "precious.ckpt"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"which is no checkpoint file"):
        check_state(saved(dirpath=str(tmp_path), best_model_path=str(folder)), "x.ckpt")


@pytest.mark.parametrize(
    "state",
    [
        {"best_model_path": 3},
        {"best_k_models": None},
        {"best_k_models": ["/run/a.ckpt"]},
        {"best_k_models": {"/run/a.ckpt": torch.zeros(3)}, "kth_best_model_path": "/run/a.ckpt"},
        {"best_k_models": {}, "kth_best_model_path": "/run/a.ckpt"},
    ],
)
def test_junk_in_the_state_of_saved_files(state):
    with pytest.raises(ValueError, match=r"^x\.ckpt.* is damaged"):
        check_state(saved(**state), "x.ckpt")


def test_genuine_files_of_a_fit_may_be_deleted():
    best = {"/run/a.ckpt": torch.zeros(()), "/run/epoch=1-val/loss=2.ckpt": torch.zeros(())}
    paths = {"best_model_path": "/run/a.ckpt", "kth_best_model_path": "/run/a.ckpt"}
    check_state(saved(**paths, best_k_models=best, monitor="val/loss"), "x.ckpt")


@pytest.mark.parametrize(
    ("stored", "own"),
    [
        ({"a": 2, "new": "x"}, {"a": 1.0, "b": 3}),
        ({"a": torch.tensor(2.0)}, {"a": 1}),
        ({"a": [1, 2]}, {"a": (3, 4)}),
        ({"a": "x"}, {"a": None}),
        ({"a": {"b": [1, "x"]}}, {"a": {}}),
        ([], []),
    ],
)
def test_states_alike(stored, own):
    check_like(stored, own, "x.ckpt")


@pytest.mark.parametrize(
    ("stored", "own"),
    [
        ({"a": "x"}, {"a": 1}),
        ({"a": True}, {"a": 1}),
        ({"a": 1}, {"a": True}),
        ({"a": torch.zeros(3)}, {"a": torch.zeros(())}),
        ({"a": 10**30}, {"a": 1}),
        ({"a": [1]}, {"a": (3, 4)}),
        ({"a": None}, {"a": 1}),
        ({"a": 5}, {"a": {}}),
        ("x", {}),
        ({}, []),
        ({"a": [{"b": "x"}]}, {"a": [{"b": 1}]}),
    ],
)
def test_states_that_differ(stored, own):
    with pytest.raises(ValueError, match=r"^x\.ckpt.* is damaged: expected a value like"):
        check_like(stored, own, "x.ckpt")


def test_a_schedule_gets_no_attributes_that_it_has_not():
    _, optimizer = trained()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    state = schedule.state_dict()
    check_schedulers([state], [schedule], "x.ckpt")
    for wrong in ([{**state, "step": "x"}], [{**state, "last_epoch": "x"}], [], "x"):
        with pytest.raises(ValueError, match=r"^x\.ckpt: lr_schedulers"):
            check_schedulers(wrong, [schedule], "x.ckpt")


def trained(kind=torch.optim.AdamW, shape=(4, 3), **options):
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(shape))
    optimizer = kind([parameter], lr=0.1, **options)
    for _ in range(3):
        parameter.grad = parameter.detach() * 2
        optimizer.step()
    return parameter, optimizer


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_a_genuine_state_is_taken_as_it_is(kind):
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    parameter, optimizer = trained(kind, **options)
    state = optimizer.state_dict()
    again, other = trained(kind, **options)
    again.data.copy_(parameter.detach())
    other.load_state_dict(settle_optimizer(state, other, "x.ckpt"))
    for each, own in ((parameter, optimizer), (again, other)):
        each.grad = torch.ones(4, 3)
        own.step()
    assert torch.equal(parameter, again)


def test_the_kernels_are_those_of_the_optimizer_at_hand():
    _, optimizer = trained()
    state = optimizer.state_dict()
    state["param_groups"][0] |= {"fused": True, "foreach": False, "capturable": True, "lr": 0.5}
    (group,) = settle_optimizer(state, optimizer, "x.ckpt")["param_groups"]
    own = optimizer.param_groups[0]
    for name in ("fused", "foreach", "capturable"):
        assert group[name] == own[name]
    assert group["lr"] == 0.5


@pytest.mark.parametrize(
    "value",
    [torch.zeros(2), torch.zeros(4, 1), torch.zeros(3, 4), torch.zeros(4, 3).to_sparse()],
    ids=["short", "broadcast", "turned", "sparse"],
)
def test_a_state_of_another_size_is_refused(value):
    _, optimizer = trained()
    state = optimizer.state_dict()
    state["state"][0]["exp_avg"] = value
    with pytest.raises(
        ValueError, match=r"x\.ckpt: optimizer state exp_avg has the shape .* expected \[4, 3\]"
    ):
        settle_optimizer(state, optimizer, "x.ckpt")


def test_a_state_without_memory_of_its_own_gets_some():
    """Fused kernels count on one value in memory for each of the parameter's."""
    parameter, optimizer = trained(shape=(2, 3, 4, 4))
    parameter.data = parameter.data.to(memory_format=torch.channels_last)
    state = optimizer.state_dict()
    state["state"][0]["exp_avg"] = torch.ones(1).expand(2, 3, 4, 4)
    kept = settle_optimizer(state, optimizer, "x.ckpt")["state"][0]
    assert torch.equal(kept["exp_avg"], torch.ones(2, 3, 4, 4))
    assert kept["exp_avg"].stride() == parameter.stride()
    assert kept["exp_avg"].untyped_storage().nbytes() == 4 * parameter.numel()


def test_a_state_of_another_network_is_told():
    _, optimizer = trained()
    two = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2)) for _ in range(2)])
    with pytest.raises(ValueError, match=r"state of 2 parameters in 1 groups, expected 1 in 1"):
        settle_optimizer(two.state_dict(), optimizer, "x.ckpt")


def test_optimizers_with_states_of_other_shapes_keep_them():
    _, optimizer = trained(torch.optim.Adafactor)
    state = optimizer.state_dict()
    kept = settle_optimizer(state, optimizer, "x.ckpt")["state"][0]
    assert kept["row_var"].shape == (4, 1)
