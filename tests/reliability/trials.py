"""Commands in processes of their own, which a trial can kill, watch, starve and compare.

A process is forked from a server that has imported everything, so that it starts within 0.1 s.
"""

import contextlib
import csv
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
LIMIT = 120  # seconds after which a command hangs
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pytest", "tests.reliability.loaded"])
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
CHANGES = ("os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir", "os.link", "os.symlink")


@dataclass
class Run:
    """What a finished command left: exit code (negative: killed by a signal) and its texts."""

    code: int
    out: str
    err: str
    seconds: float
    events: int  # changes of the watched folder
    seen: list[str]  # connections, and openings of files that nobody may open

    @property
    def text(self):
        return self.out + self.err

    def refused(self, *words):
        """The only line of the error, which holds all the words, and not only within a path."""
        assert self.code == 2, f"exit {self.code}: {self.last}"
        lines = [line for line in self.err.splitlines() if line.strip()]
        told = [line for line in lines if line.startswith("error: ")]
        assert told == lines[-1:], f"not one line: {lines[-5:]}"
        assert "Traceback" not in self.text
        plain = re.sub(r"\S*/\S*", "", told[0]).lower()
        paths = [word for word in words if "." in word or "/" in word]
        missing = [each for each in words if each not in paths and each.lower() not in plain]
        missing += [each for each in paths if each not in told[0]]
        assert not missing, f"{missing} not in: {told[0]}"
        return told[0].removeprefix("error: ")

    def passed(self):
        assert self.code == 0, f"exit {self.code}: {self.last}"
        assert "Traceback" not in self.err
        return self

    @property
    def last(self):
        return (self.text.strip().splitlines() or ["nothing said"])[-1][:300]


@dataclass
class Started:
    """A running command."""

    process: multiprocessing.Process
    texts: Path
    began: float = field(default_factory=time.monotonic)

    def kill(self, number=signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(self.process.pid, number)

    def wait(self):
        self.process.join(LIMIT)
        hung = self.process.exitcode is None
        if hung:
            self.kill()
            self.process.join()
        seconds = time.monotonic() - self.began
        texts = {
            name: (self.texts / name).read_text(errors="replace")
            if (self.texts / name).exists()
            else ""
            for name in ("out", "err", "events", "seen")
        }
        shutil.rmtree(self.texts, ignore_errors=True)
        assert not hung, f"hung for {LIMIT} s"
        return Run(
            self.process.exitcode,
            texts["out"],
            texts["err"],
            seconds,
            int(texts["events"] or 0),
            texts["seen"].splitlines(),
        )


def start(job, *arguments, path=(), env=(), watch=None, kill_at=None, secret=(), limit=None):
    """Starts `job(*arguments)` in a process.

    Args:
        job: A function of a module that the process can import; its result is the exit code.
        path: Further folders of modules.
        env: Further environment variables.
        watch: Folder whose changes (files opened to write, renamed, removed) are counted.
        kill_at: Number of the change before which the process kills itself by SIGKILL.
        secret: Files whose opening is recorded.
        limit: Largest size of a file that can be written.
    """
    if not forkserver._forkserver._forkserver_pid:
        os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONPATH": str(ROOT)}
        before = os.getcwd()
        os.chdir(ROOT)
        forkserver.ensure_running()
        os.chdir(before)
    texts = Path(tempfile.mkdtemp(prefix="trial-"))
    how = {
        "texts": str(texts),
        "path": [str(each) for each in path],
        "env": {"TMPDIR": str(texts), **dict(env)},
        "watch": str(watch or ""),
        "kill_at": kill_at,
        "secret": [os.path.realpath(each) for each in secret],
        "limit": limit,
    }
    process = SERVER.Process(target=_child, args=(job, arguments, how))
    process.start()
    return Started(process, texts)


def run(job, *arguments, **how):
    return start(job, *arguments, **how).wait()


def _child(job, arguments, how):
    texts = Path(how["texts"])
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(texts / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(ROOT)
    os.environ.update(how["env"])
    tempfile.tempdir = None
    sys.path[:0] = how["path"]
    if how["limit"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (how["limit"], how["limit"]))
    counts = [0]
    if how["watch"]:
        sys.addaudithook(_counting(how["watch"], how["kill_at"], counts))
    sys.addaudithook(_guard(texts / "seen", how["secret"]))
    try:
        code = job(*arguments)
    finally:
        sys.stdout.flush()
        with open(texts / "events", "w") as file:
            file.write(str(counts[0]))
    sys.exit(code)


def _counting(folder, kill_at, counts):
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def hook(event, values):
        if event != "open" and event not in CHANGES:
            return
        if event == "open" and not (isinstance(values[2], int) and values[2] & writing):
            return
        places = [os.fsdecode(v) for v in values[:2] if isinstance(v, str | bytes | os.PathLike)]
        if any(os.path.realpath(place).startswith(folder) for place in places):
            counts[0] += 1
            if counts[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def _guard(record, secret):
    file = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def hook(event, values):
        if event in NETWORK:
            address = values[1] if event == "socket.connect" else values[0]
            if not isinstance(address, str) or event != "socket.connect":  # no local socket
                os.write(file, f"{event} {address}\n".encode())
                raise OSError("no network in trials")
        if event == "open" and secret and isinstance(values[0], str | bytes | os.PathLike):
            path = os.fsdecode(values[0])
            if os.path.realpath(path) in secret:
                os.write(file, f"opened {path}\n".encode())

    return hook


def command(program, *words):
    """A job: `python <program>.py <words>`, in process."""
    from explainers.cli import CLI, EvaluateCLI, main

    sys.argv = [f"{program}.py", *words]
    return main({"train": CLI, "evaluate": EvaluateCLI}[program], list(words))


def train(*words, **how):
    return run(command, "train", *map(str, words), **how)


def evaluate(*words, **how):
    return run(command, "evaluate", *map(str, words), **how)


def out(folder):
    """The words that choose the run folder."""
    return ["--out", str(folder)]


def config(path, *parts):
    """Writes dicts, merged key by key, as a configuration file; returns its path."""
    path.write_text(yaml.safe_dump(merged(*parts), allow_unicode=True))
    return str(path)


def merged(*parts):
    result = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


def nested(place, value):
    """`nested("a.b", 1)` is `{"a": {"b": 1}}`."""
    for key in reversed(place.split(".")):
        value = {key: value}
    return value


def picture(path, seed=0, color=0, size=32):
    """Writes noise, brighter in one color."""
    values = np.random.default_rng(seed).integers(0, 128, (size, size, 3))
    values[..., color] += 100
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path, format="png")


def pictures(folder, count=8):
    """Writes `count` images into the class folders cats and dogs."""
    for number in range(count):
        label = number % 2
        picture(folder / ["cats", "dogs"][label] / f"{number}.png", number, label)
    return folder


def tree(folder):
    """Content of every file in a folder by its path, but for locks."""
    folder = os.fsencode(folder)
    found = {}
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            if not name.endswith(b".lock"):
                with open(path, "rb") as file:
                    found[os.fsdecode(os.path.relpath(path, folder))] = file.read()
    return found


def rows(folder):
    """The rows of a scores.csv, as the csv module reads them."""
    path = folder / "scores.csv"
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def numbers(folder, method=None):
    """Figures by (image, method, target), as text."""
    found = {}
    for row in rows(folder):
        key = (row["name"], row["method"], row["target"])
        assert key not in found, f"twice: {key}"
        if method in (None, row["method"]):
            left_out = ("index", "name", "method", "target", "seconds", "error", "identity")
            found[key] = {n: v for n, v in row.items() if n not in left_out}
    return found
