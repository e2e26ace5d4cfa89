"""Freed memory is kept for the next tensors."""

import os
import platform
import subprocess
import sys

import pytest

COUNT = """
import resource
import numpy
from explainers.memory import keep_freed
print(keep_freed())
faults = []
for _ in range(4):
    numpy.ones(4_000_000)  # 32 MB, whose pages are written, and freed
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[3] - faults[0])
"""


def run(**variables):
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("MALLOC_", "GLIBC_"))}
    words = [sys.executable, "-c", COUNT]
    told = subprocess.run(
        words, env=environment | variables, capture_output=True, text=True, check=True
    )
    kept, faults = told.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the C library glibc")
def test_pages_are_not_taken_from_the_system_again():
    kept, faults = run()
    chosen, others = run(MALLOC_TRIM_THRESHOLD_="100000")  # takes 96 MB from the system
    assert kept
    assert not chosen
    assert 4 * faults < others


def test_another_c_library_is_left_alone(monkeypatch):
    from explainers import memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not memory.keep_freed()
