"""Training order and augmentation from (seed, epoch, index) alone, so that a fit can be resumed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

Key = tuple[int, int]  # (epoch, index)
Batch = dict[str, Any]


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Run a block with torch's CPU generator seeded from `entropy`, then restore its state.

    Only the CPU generator is touched: `torch.manual_seed` would also reset the GPU's.
    """
    seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class EpochSampler(DistributedSampler[Key]):
    """Yield (epoch, index) keys in an order from (seed, epoch), each process its own share.

    The epoch travels with the index because workers that stay alive between epochs cannot see
    `set_epoch`. Being a `DistributedSampler`, it is left alone by Lightning, whose own wrapper
    forgot `set_epoch` before 2.6.1.
    """

    def __init__(self, dataset: Dataset[Any], seed: int, replicas: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=replicas, rank=rank, seed=seed, drop_last=True)
        self.start = 0  # keys of this process to leave out of the next iteration only

    def __iter__(self) -> Iterator[Key]:
        """Iterate over this process's keys of the current epoch."""
        with seeded(self.seed, self.epoch):
            order = torch.randperm(len(self.dataset)).tolist()  # type: ignore[arg-type]
        share = order[self.rank : self.total_size : self.num_replicas]
        start, self.start = self.start, 0
        return iter([(self.epoch, index) for index in share[start:]])


class ResumableLoader(DataLoader[Batch]):
    """A train loader that resumes within an epoch: Lightning keeps its position in checkpoints.

    Batches already seen are skipped by their keys, so no image is loaded for it.
    """

    _state: dict[str, int]
    _resume: dict[str, int]

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Iterate over the batches of the epoch, or what is left of it right after a resume."""
        resume = self.__dict__.pop("_resume", {})
        self._state = {"epoch": getattr(self.sampler, "epoch", 0), "batches": 0}
        if isinstance(self.sampler, EpochSampler) and resume.get("epoch") == self.sampler.epoch:
            self._state = resume
            self.sampler.start = resume["batches"] * (self.batch_size or 1)
        for batch in super().__iter__():
            self._state["batches"] += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the last epoch begun and the number of its batches handed out so far."""
        return dict(self.__dict__.get("_resume") or self.__dict__.get("_state", {}))

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the batches that `state` counts, if the next epoch is the one it names."""
        self._resume = dict(state)
