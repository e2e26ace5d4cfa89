"""What went wrong in one line, if the user can mend it; faults of ours keep their traceback.

An error can be mended if it tells of the machine (files, memory, devices, packages), if something
was refused, that is raised on purpose with a message, by this project or by a library that checks
settings, or if it comes from a module of the user's own.
"""

import errno
import itertools
import os
import pickle
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from explainers import files
from explainers.messages import near, parser

DEBUG = "LEARNED_EXPLAINERS_DEBUG"  # environment variable: every error keeps its traceback
OURS = (files.PACKAGE, files.PACKAGE.parent / "datamodules")
LIBRARIES = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")})
# Libraries that refuse what a user has set; in others an error is more likely a fault of ours.
CHECKING = (
    "argparse.py",
    "huggingface_hub/",
    "jsonargparse/",
    "lightning/",
    "lightning_utilities/",
    "timm/",
    "torch/optim/",
    "torch/utils/data/",
    "torchvision/",
    "wandb/",
)
OPTIM = "/torch/optim/"
OUT = "for another run folder: --out FOLDER"
SYSTEM = {
    errno.EACCES: f"it may not be read or written; {OUT}",
    errno.EPERM: f"it may not be read or written; {OUT}",
    errno.EROFS: f"the disk is read-only; {OUT}",
    errno.ENOSPC: f"the disk is full: free some space; {OUT}",
    errno.EDQUOT: f"the disk quota is used up: free some space; {OUT}",
    errno.ENAMETOOLONG: f"give a shorter name; {OUT}",
    errno.EMFILE: "too many files are open: ulimit -n 4096, or --data.init_args.num_workers 0",
    errno.ENFILE: "too many files are open: ulimit -n 4096, or --data.init_args.num_workers 0",
    errno.EISDIR: "it is a folder, where a file is expected",
    errno.ENOTDIR: "it is a file, where a folder is expected",
    errno.EEXIST: "it is a file, where a folder is expected",
}
MEMORY = re.compile(
    r"out of memory|DefaultCPUAllocator|[Cc]an(?:not|'t) allocate|Unable to allocate|_ALLOC_FAILED"
)
WRITE = re.compile(r"PytorchStreamWriter failed|iostream error|file write failed")
DEVICE = re.compile(
    r"NVIDIA driver|CUDA driver|not compiled with CUDA|NCCL error|No supported gpu backend"
    r"|CUDA error: (?!device-side assert|an illegal memory access|misaligned)"
)


def one_line(error: BaseException, program: str) -> str | None:
    """What is wrong and where, and what to do about it; None if it is a fault of ours.

    Args:
        error: What a command raised.
        program: Name of the program, for advice.
    """
    if os.environ.get(DEBUG):
        return None
    chain = list(_chain(error))
    place = next(filter(None, map(_place, reversed(chain))), None)
    told = next((_memory(each) for each in chain if _is_memory(each)), _machine(error))
    if told is None and _is_refused(error):
        told = parser.shorten(_text(error), program)
    if told is None:
        told = next(reversed(getattr(error, "__notes__", [])), None)
    if told is not None:
        return f"{told} ({place})" if place else told
    own = [origin for step in _steps(error) if (origin := _origin(step.filename)) != "library"]
    if place and own and own[-1] == "user":
        text = " ".join(f"{type(error).__name__}: {_text(error)}".split())
        return f"{text} ({place}; {DEBUG}=1 shows the traceback)"
    return None


def _machine(error: BaseException) -> str | None:
    """What files, packages, processes or devices refuse, and weights that cannot be taken."""
    text = _text(error)
    if WRITE.search(text):
        return f"{_first(text)}: is the disk full? {OUT}"
    if isinstance(error, OSError):
        return _system(text)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{' '.join(text.split())}; {parser.install(error.name)}"
    if isinstance(error, pickle.UnpicklingError):
        return f"the file holds Python objects, which are never loaded: {_first(text)}"
    if "Error(s) in loading state_dict" in text:
        found = " ".join(text.split())
        return f"the weights do not fit: {found if len(found) < 300 else f'{found[:300]}...'}"
    if re.search(r"DataLoader worker \(pid.*(?:killed|exited)", text):
        return f"{_first(text)}: mostly for lack of memory; --data.init_args.num_workers 0"
    if DEVICE.search(text):
        return f"{_first(text)}; --trainer.accelerator auto takes what there is"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _message(error: BaseException) -> str:
    """The message as it was given; `str` puts that of a KeyError in quotes."""
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def _text(error: BaseException) -> str:
    """The message; of an error in a worker of the data loader, the last line of its traceback."""
    text = _message(error)
    if "in DataLoader worker process" in text:
        return text.strip().splitlines()[-1].partition(": ")[2]
    return text


def _first(text: str) -> str:
    """The first sentence of a message, without the places in C++ that torch tells."""
    text = " ".join(re.sub(r"\[enforce fail at .*?\] *(?:\. |err == 0\. )?", "", text).split())
    return re.split(r"\. |: you tried|\.$", text)[0]


def _steps(error: BaseException) -> list[traceback.FrameSummary]:
    """The calls that ended in the error, those in a worker of the data loader among them."""
    steps = list(traceback.extract_tb(error.__traceback__))
    if "in DataLoader worker process" in (text := _message(error)):
        frames = re.findall(r'File "(.*?)", line (\d+), in (\S+)\n\s+(.*)', text)
        steps += [traceback.FrameSummary(f, int(n), name, line=code) for f, n, name, code in frames]
    return steps


def _origin(filename: str) -> str:
    """Whose code a file holds: "ours", "library" or "user"."""
    if any(Path(filename).is_relative_to(folder) for folder in OURS):
        return "ours"
    packed = filename.startswith(("<", *LIBRARIES)) or "-packages/" in filename
    return "library" if packed else "user"


def _place(error: BaseException) -> str | None:
    """File, line and function of the last call in a module of the user's own, which we called."""
    called = itertools.dropwhile(lambda step: _origin(step.filename) == "user", _steps(error))
    for step in reversed(list(called)):
        if _origin(step.filename) == "user":
            return f"{os.path.relpath(step.filename)}:{step.lineno}, in {step.name}"
    return None


def _is_refused(error: BaseException) -> bool:
    """Whether the error was raised on purpose, by this project or a library that checks settings.

    What Python raises by itself, such as for a missing key or for what cannot be converted, does
    not come from a `raise`. Some types are no refusals even so: libraries raise them for faults.
    """
    library = type(error).__module__.partition(".")[0]
    if library in ("argparse", "jsonargparse", "lightning", "wandb", "yaml"):
        return True
    steps = _steps(error)
    if isinstance(error, ArithmeticError | TypeError) and steps and OPTIM in steps[-1].filename:
        return True  # an option that is out of range, such as T_max 0, or of another type
    faults = (UnicodeError, NotImplementedError, RecursionError)
    if not isinstance(error, (ValueError, TypeError, RuntimeError)) or isinstance(error, faults):
        return False
    if not steps:
        return True
    last = steps[-1]
    place = re.split(r"-packages/|lib/python[\d.]+/", last.filename)[-1]
    checked = _origin(last.filename) == "ours" or place.startswith(CHECKING)
    return checked and (last.line or "").startswith("raise ")


def _memory(error: BaseException) -> str:
    return (
        f"out of memory ({_first(_text(error)) or 'MemoryError'}): give a smaller "
        "--data.init_args.batch_size, --model.init_args.batch_size (if the method has it) or "
        "--trainer.precision bf16-mixed"
    )


def _is_memory(error: BaseException) -> bool:
    kinds = (RuntimeError, OSError)
    return isinstance(error, MemoryError) or (
        isinstance(error, kinds) and MEMORY.search(str(error)) is not None
    )


def _system(text: str) -> str:
    """What the operating system refused, with its advice."""
    if found := re.match(r"configuration file '(.*)' does not exist", text):
        return text + near.nearest_config(found[1]) if found[1] else "-c needs the path of a file"
    found = re.match(r"\[Errno (\d+)\] (.*?)(?:: (['\"].*))?$", text, re.DOTALL)
    if not found:
        return " ".join(text.split())
    name = found[3] or ""
    name = f"{name[:60]}...' ({len(name) - 2} characters)" if len(name) > 300 else name
    advice = SYSTEM.get(int(found[1]))
    return found[2] + (f": {name}" if name else "") + (f"; {advice}" if advice else "")
