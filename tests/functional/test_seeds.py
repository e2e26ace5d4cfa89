"""Seeds from several numbers."""

import numpy as np

from explainers.functional.seeds import combine


def test_seeds_of_steps_and_processes_differ_and_stay():
    steps = [(seed, step, rank) for seed in range(-1, 2) for step in range(50) for rank in (0, 1)]
    found = [combine(*step) for step in steps]
    assert len(set(found)) == 300
    assert all(0 <= seed < 2**63 for seed in found)
    assert found == [combine(*step) for step in steps]


def test_the_seed_is_numpys():
    state = np.random.SeedSequence([3, 4]).generate_state(1, np.uint64)[0]
    assert combine(3, 4) == int(state) // 2
