"""How the benchmarks time: contenders take turns, so a busy machine is busy for all of them."""

import statistics
import time
from collections.abc import Callable

import torch

Run = Callable[[], object]


def cpu_seconds(run: Run) -> float:
    """CPU seconds of the process."""
    start = time.process_time()
    run()
    return time.process_time() - start


def cuda_seconds(run: Run) -> float:
    """Seconds between two events of the GPU, one before and one after what the run starts there."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def interleaved(
    rounds: int, clock: Callable[[Run], float] = cpu_seconds, **contenders: Run
) -> dict[str, list[float]]:
    """Seconds of each contender in each round by the clock; one unmeasured round first."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, run in contenders.items():
            spent = clock(run)
            if turn:
                seconds[name].append(spent)
    return seconds


def medians(
    rounds: int, clock: Callable[[Run], float] = cpu_seconds, **contenders: Run
) -> dict[str, float]:
    """Median seconds of each contender over the rounds."""
    found = interleaved(rounds, clock, **contenders)
    return {name: statistics.median(values) for name, values in found.items()}
