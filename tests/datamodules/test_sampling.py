"""Training order, from (seed, epoch) alone, and loaders that go on where they stopped."""

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from datamodules.sampling import EpochSampler, ResumableLoader, one_thread, seeded
from datamodules.shapes import Shapes


class Keys(Dataset):
    """Gives back the key that it is asked for, and remembers it."""

    def __init__(self, count):
        self.count, self.loaded = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, key):
        self.loaded.append(key)
        return torch.tensor(key)


def loader(count=7, batch_size=2, seed=0):
    dataset = Keys(count)
    sampler = EpochSampler(dataset, seed)
    return ResumableLoader(dataset, batch_size=batch_size, sampler=sampler, drop_last=True)


def epoch(loader, number):
    """The batches of an epoch, each as its keys."""
    loader.sampler.set_epoch(number)
    return [batch.tolist() for batch in loader]


def test_a_seeded_block_is_a_generator_of_its_own():
    entropy = int(np.random.SeedSequence((3, 1, 4)).generate_state(1, np.uint64)[0] >> 1)
    expected = torch.rand(4, generator=torch.Generator().manual_seed(entropy))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with seeded(3, 1, 4):
        assert torch.equal(torch.rand(4), expected)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ZeroDivisionError), seeded(3, 1, 4):
        torch.rand(4).tolist()[0] / 0
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_differs_by_every_number():
    draws = set()
    for entropy in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]:
        with seeded(*entropy):
            draws.add(torch.rand(()).item())
    assert len(draws) == 4


def test_the_order_of_an_epoch_is_a_permutation_from_seed_and_epoch():
    sampler = EpochSampler(Keys(20), seed=3)
    orders = []
    for number in (0, 1, 0):
        sampler.set_epoch(number)
        keys = list(sampler)
        assert [key[0] for key in keys] == [number] * 20
        orders.append([key[1] for key in keys])
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(20))
    assert [index for _, index in EpochSampler(Keys(20), seed=4)] != orders[0]
    with seeded(3, 1):
        assert torch.randperm(20).tolist() == orders[1]


def test_processes_share_an_epoch_without_overlap():
    samplers = [EpochSampler(Keys(11), seed=0, replicas=2, rank=rank) for rank in (0, 1)]
    for number in (0, 1):
        for sampler in samplers:
            sampler.set_epoch(number)
        shares = [[index for _, index in sampler] for sampler in samplers]
        assert [len(share) for share in shares] == [5, 5]
        assert len({*shares[0], *shares[1]}) == 10
        with seeded(0, number):
            order = torch.randperm(11).tolist()
        assert shares == [order[0:10:2], order[1:10:2]]


def test_a_start_counts_for_one_iteration():
    sampler = EpochSampler(Keys(6), seed=0)
    whole = list(sampler)
    sampler.start = 4
    assert list(sampler) == whole[4:]
    assert list(sampler) == whole


def test_a_loader_counts_the_batches_it_has_handed_out():
    data = loader()
    assert data.state_dict() == {}
    data.sampler.set_epoch(5)
    for count, _ in enumerate(data, start=1):
        assert data.state_dict() == {"epoch": 5, "batches": count}
    assert data.state_dict() == {"epoch": 5, "batches": 3}
    epoch(data, 6)
    assert data.state_dict() == {"epoch": 6, "batches": 3}


@pytest.mark.parametrize("seen", [0, 1, 2, 3])
def test_a_resumed_epoch_goes_on_without_loading_what_was_seen(seen):
    whole = epoch(loader(), 1)
    resumed = loader()
    resumed.load_state_dict({"epoch": 1, "batches": seen})
    assert resumed.state_dict() == {"epoch": 1, "batches": seen}  # saved before it goes on
    assert epoch(resumed, 1) == whole[seen:]
    assert len(resumed.dataset.loaded) == 2 * (3 - seen)
    assert resumed.state_dict() == {"epoch": 1, "batches": 3}
    assert epoch(resumed, 1) == whole  # once only


def test_another_epoch_than_the_saved_one_begins_at_its_start():
    resumed = loader()
    resumed.load_state_dict({"epoch": 1, "batches": 2})
    assert epoch(resumed, 2) == epoch(loader(), 2)
    assert resumed.state_dict() == {"epoch": 2, "batches": 3}
    assert len(epoch(resumed, 1)) == 3


def test_a_sampler_that_lightning_puts_in_its_place_is_iterated_whole():
    dataset = Keys(4)
    data = ResumableLoader(dataset, batch_size=2, sampler=SequentialSampler(dataset))
    data.load_state_dict({"epoch": 0, "batches": 1})
    assert [batch.tolist() for batch in data] == [[0, 1], [2, 3]]


class Threads(Dataset):
    """How many threads numpy's and torch's products use where the item is loaded."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        return torch.tensor([torch.get_num_threads(), *pools])


def test_a_data_worker_has_one_thread():
    (batch,) = DataLoader(Threads(), batch_size=2, num_workers=1, worker_init_fn=one_thread)
    assert (batch == 1).all()


def test_every_loader_gives_its_workers_one_thread():
    data = Shapes(image_size=[32, 32], num_workers=1, train_images=16)
    loaders = (data.train_dataloader, data.val_dataloader, data.test_dataloader)
    assert all(loader().worker_init_fn is one_thread for loader in loaders)
