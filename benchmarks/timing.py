"""How the benchmarks time: contenders take turns, so a busy machine is busy for all of them."""

import statistics
import time
from collections.abc import Callable


def interleaved(rounds: int, **contenders: Callable[[], object]) -> dict[str, list[float]]:
    """CPU seconds of each contender in each round; one unmeasured round first."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, run in contenders.items():
            start = time.process_time()
            run()
            if turn:
                seconds[name].append(time.process_time() - start)
    return seconds


def medians(rounds: int, **contenders: Callable[[], object]) -> dict[str, float]:
    """Median CPU seconds of each contender over the rounds."""
    found = interleaved(rounds, **contenders)
    return {name: statistics.median(values) for name, values in found.items()}
