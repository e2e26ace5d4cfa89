"""Training order and augmentation that depend only on (seed, epoch, index), for resuming."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed
from threadpoolctl import threadpool_limits
from torch.utils.data import Dataset, DistributedSampler

from datamodules.loading import Batch, ImageLoader

Key = tuple[int, int]  # (epoch, index)


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seed torch's CPU generator from `entropy` within the block, and restore it afterwards.

    Only the CPU generator is changed. `torch.manual_seed` would also reset those of the GPUs.
    """
    seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def one_thread(worker: int) -> None:
    """Give a data worker one thread, since workers that each use all cores slow each other down.

    torch does so for its own threads, but not for the matrix products of numpy.
    """
    threadpool_limits(1)


class EpochSampler(DistributedSampler[Key]):
    """Sampler of (epoch, index) keys in an order that depends only on (seed, epoch).

    Each process gets its own share of the keys. Keys contain the epoch because workers that stay
    alive between epochs do not notice `set_epoch`. Lightning does not wrap this sampler, because it
    is a `DistributedSampler`; Lightning's own wrapper did not call `set_epoch` before 2.6.1.

    Args:
        dataset: Data set to sample from.
        seed: Seed of the order.
        replicas: Number of processes.
        rank: Index of this process.
    """

    def __init__(self, dataset: Dataset[Any], seed: int, replicas: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=replicas, rank=rank, seed=seed, drop_last=True)
        self.start = 0  # number of keys of this process that the next iteration skips

    def __iter__(self) -> Iterator[Key]:
        """Iterate over the keys of this process in the current epoch."""
        with seeded(self.seed, self.epoch):
            order = torch.randperm(len(self.dataset)).tolist()  # type: ignore[arg-type]
        share = order[self.rank : self.total_size : self.num_replicas]
        start, self.start = self.start, 0
        return iter([(self.epoch, index) for index in share[start:]])


class ResumableLoader(ImageLoader):
    """Training loader that can resume within an epoch; checkpoints of Lightning store its position.

    Batches that were already seen are skipped by their keys, without loading their images.
    """

    needs_every_batch = True  # batches count for resuming
    _state: dict[str, int]
    _resume: dict[str, int]

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Iterate over the batches of the epoch, or the remaining ones directly after resuming."""
        resume = self.__dict__.pop("_resume", {})
        self._state = {"epoch": getattr(self.sampler, "epoch", 0), "batches": 0}
        if isinstance(self.sampler, EpochSampler) and resume.get("epoch") == self.sampler.epoch:
            self._state = resume
            self.sampler.start = resume["batches"] * (self.batch_size or 1)
        for batch in super().__iter__():
            self._state["batches"] += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the last epoch that was started and the number of its batches returned so far."""
        return dict(self.__dict__.get("_resume") or self.__dict__.get("_state", {}))

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip the batches counted by `state` if the next epoch is the epoch of `state`."""
        self._resume = dict(state)


def shared(value: Any) -> Any:
    """Return the value of the first process in all processes, which must all call this."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values)
    return values[0]
