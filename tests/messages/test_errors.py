"""Which errors are told in one line, and in which words; faults of ours keep their traceback."""

import errno
import os
import pickle

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from explainers.functional import masking
from explainers.messages import one_line


def raised(call, *args):
    """What a call raises, caught as the command line catches it."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call(*args)
    return caught.value


def throw(error):
    raise error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errno.EACCES, "Permission denied: 'x'; it may not be read or written"),
        (errno.EROFS, "the disk is read-only; for another run folder: --out FOLDER"),
        (errno.ENOSPC, "No space left on device: 'x'; the disk is full"),
        (errno.ENAMETOOLONG, "File name too long: 'x'; give a shorter name"),
        (errno.EISDIR, "it is a folder, where a file is expected"),
        (errno.EMFILE, "too many files are open: ulimit -n 4096"),
    ],
)
def test_what_the_system_refuses_comes_with_advice(error, told):
    assert told in one_line(OSError(error, os.strerror(error), "x"), "train.py")


def test_a_long_name_is_cut():
    told = one_line(OSError(errno.ENAMETOOLONG, "File name too long", "x" * 400), "train.py")
    assert "(400 characters)" in told
    assert len(told) < 200


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "out of memory (MemoryError): give a smaller --data.init_args.batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out of memory (CUDA out of memory)"),
        (
            RuntimeError("[enforce fail at a.cpp:1] err == 0. DefaultCPUAllocator: can't allocate"),
            "out of memory (DefaultCPUAllocator: can't allocate): give a smaller",
        ),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed. "), "num_workers 0"),
        (RuntimeError("Found no NVIDIA driver on your system. Please"), "accelerator auto"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0"), "is the disk full?"),
        (pickle.UnpicklingError("Weights only load failed. More"), "holds Python objects"),
        (RuntimeError("Error(s) in loading state_dict for X:\n\tMissing"), "weights do not fit"),
        (MisconfigurationException("No supported gpu backend found!"), "accelerator auto"),
        (MisconfigurationException("devices\n  are 0"), "devices are 0"),
        (ModuleNotFoundError("No module named 'captum'", name="captum"), "[baselines]"),
        (ModuleNotFoundError("No module named 'onnx'", name="onnx"), "[onnx]"),
        (
            ModuleNotFoundError("No module named 'mine'", name="mine"),
            "is its folder on PYTHONPATH?",
        ),
        (
            FileNotFoundError("configuration file 'rise' does not exist"),
            "methods/rise.yaml?",
        ),
        (
            ValueError(
                "Caught ValueError in DataLoader worker process 0.\n  X\nValueError: no image"
            ),
            "no image",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_is_told_in_one_line(error, told):
    message = one_line(error, "train.py")
    assert told in message
    assert "\n" not in message


def test_memory_is_found_behind_another_error():
    error = ValueError("the network fails")
    error.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    assert one_line(error, "train.py").startswith("out of memory (CUDA out of memory)")


def of_user(tmp_path, name):
    """What a module in a file of the user's raises, called by torch."""
    path = tmp_path / "mine.py"
    path.write_text(f"def forward(x):\n    raise {name}('a')\n")
    space = {}
    exec(compile(path.read_text(), str(path), "exec"), space)
    network = torch.nn.Identity()
    network.forward = space["forward"]
    return raised(network, torch.zeros(1))


@pytest.mark.parametrize("name", ["KeyError", "RuntimeError", "AssertionError", "ValueError"])
def test_an_error_in_a_module_of_the_users_is_told_with_its_place(tmp_path, name, monkeypatch):
    error = of_user(tmp_path, name)
    monkeypatch.chdir(tmp_path)
    told = f"{name}: a (mine.py:2, in forward; LEARNED_EXPLAINERS_DEBUG=1 shows the traceback)"
    assert one_line(error, "train.py") == told
    outer = ValueError("it fails on a batch")
    outer.__cause__ = error
    assert one_line(outer, "train.py") == "it fails on a batch (mine.py:2, in forward)"
    monkeypatch.setenv("LEARNED_EXPLAINERS_DEBUG", "1")
    assert one_line(error, "train.py") is None


def test_an_error_of_a_worker_is_told_with_its_place():
    text = (
        "Caught KeyError in DataLoader worker process 0.\nOriginal Traceback:\n"
        '  File "/x/site-packages/torch/w.py", line 1, in _worker_loop\n    data = fetch(index)\n'
        f'  File "{os.path.abspath("mine.py")}", line 7, in load\n    x["label"]\n'
        "KeyError: 'label'\n"
    )
    told = "KeyError: 'label' (mine.py:7, in load; LEARNED_EXPLAINERS_DEBUG=1 shows the traceback)"
    assert one_line(KeyError(text), "train.py") == told


@pytest.mark.parametrize("error", [KeyError("a"), AttributeError(), AssertionError()])
def test_a_fault_of_ours_keeps_its_traceback(error, monkeypatch):
    monkeypatch.setattr("explainers.messages.errors.OURS", (os.path.dirname(__file__),))
    assert one_line(raised(throw, error), "train.py") is None


def test_what_python_raises_by_itself_is_no_refusal(monkeypatch):
    monkeypatch.setattr("explainers.messages.errors.OURS", (os.path.dirname(__file__),))
    assert one_line(raised(lambda: int("x")), "train.py") is None
    assert one_line(raised(throw, ValueError("x must be 1, got 2")), "x") == "x must be 1, got 2"


def test_a_fault_in_torch_called_by_us_keeps_its_traceback():
    assert one_line(raised(masking.minmax, None), "train.py") is None
