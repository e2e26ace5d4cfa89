"""Checkpoints and files that try to run code, or to make reading them read or download more.

Each of them is a genuine file of this version in which a few entries were changed.
"""

import os
import pickle
import subprocess
from pathlib import Path

import torch


class Bomb:
    """A pickle that touches a file as it is read."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return subprocess.call, (["touch", self.marker],)


def tampered(genuine, path, changes):
    """A copy of a checkpoint with changes by "key" or "key.key"; a dict is merged with the old."""
    checkpoint = torch.load(genuine, weights_only=False)
    for place, value in changes.items():
        *keys, last = place.split(".")
        inner = checkpoint
        for key in keys:
            inner = inner[key]
        if isinstance(value, dict) and isinstance(inner.get(last), dict):
            value = inner[last] | value
        inner[last] = {} if value is None and last == "state_dict" else value
    torch.save(checkpoint, path)
    torch.load(path, weights_only=True)  # an attack that torch itself would refuse proves nothing
    return str(path)


def evil_module(folder, name):
    """A module whose import leaves `<name>.marker`; it has a network and a class of its own."""
    marker = Path(folder, f"{name}.marker")
    Path(folder, f"{name}.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n"
        "import torch\n"
        "def net(**kwargs):\n    return torch.nn.Sequential(torch.nn.Flatten(), "
        "torch.nn.LazyLinear(2))\n"
        "class Net(torch.nn.Module):\n    def __init__(self, **kwargs):\n"
        "        super().__init__()\n"
    )
    return marker


def hub(folder):
    """A local repository of torch.hub that leaves a file as it is read."""
    marker = Path(folder, "hub.marker")
    repository = Path(folder, "repository")
    repository.mkdir()
    (repository / "hubconf.py").write_text(
        f"open({str(marker)!r}, 'w').close()\ndef net(**kwargs):\n    return None\n"
    )
    return str(repository), marker


def program(folder):
    marker = Path(folder, "program.marker")
    Path(folder, "program.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    return str(Path(folder, "program.py")), marker


def model_attacks(folder):
    """Changes of a stored explanandum, by name, that would run code as a model is built."""
    folder = Path(folder)
    repository, _ = hub(folder)
    script, _ = program(folder)
    evil_module(folder, "evilnets")
    evil_module(folder, "explainers_evil")
    touch = f"touch {folder / 'shell.marker'}"
    imported = {"name": "evilnets"}
    attacks = {
        "os-system": ("os:system", {"command": touch}),
        "posix-system": ("posix:system", {"command": touch}),
        "subprocess-run": ("subprocess:run", {"args": touch.split()}),
        "subprocess-call": ("subprocess:call", {"args": touch, "shell": True}),
        "builtins-exec": ("builtins:exec", {"source": f"import os; os.system({touch!r})"}),
        "runpy": ("runpy:run_path", {"path_name": script}),
        "hub-load": (
            "torch.hub:load",
            {"repo_or_dir": repository, "model": "net", "source": "local", "trust_repo": True},
        ),
        "hub-download": ("torch.hub:load", {"repo_or_dir": "evil/net", "model": "net"}),
        "import-module": ("importlib:import_module", imported),
        "through-us": ("explainers.checkpoint:importlib.import_module", imported),
        "through-torchvision": ("torchvision.models:get_model", {"name": "resnet18"}),
        "through-data": ("datamodules.base:torch.hub.load", {"repo_or_dir": repository,
                         "model": "net", "source": "local"}),
        "foreign-callable": ("evilnets:net", {}),
        "prefix-of-ours": ("explainers_evil:net", {}),
        "timm-hub": ("timm:create_model", {"model_name": "hf-hub:evil/net", "pretrained": True}),
    }  # fmt: skip
    return {
        name: {"explanandum": {"model": model, "model_args": arguments, "num_classes": None}}
        for name, (model, arguments) in attacks.items()
    }


def class_attacks(folder):
    """Changes of a checkpoint, by name, that would import or build a foreign class."""
    folder = Path(folder)
    evil_module(folder, "evilpackage")
    evil_module(folder, "explainersx")
    (folder / "nest").mkdir()
    evil_module(folder / "nest", "inner")
    nested = {"class_path": "evilpackage.Net", "init_args": {}}
    touch = ["touch", str(folder / "nested.marker")]
    shell = {"class_path": "subprocess.Popen", "init_args": {"args": touch}}
    return {
        "foreign-module": {"class_path": "evilpackage.Method"},
        "foreign-network": {"class_path": "evilpackage.Net"},
        "prefix-of-our-name": {"class_path": "explainersx.Net"},
        "foreign-submodule": {"class_path": "nest.inner.Net"},
        "function": {"class_path": "os.system"},
        "no-explainer": {"class_path": "explainers.callbacks.score.Score"},
        "classifier-class": {"class_path": "explainers.explanandum.classifier.Classifier"},
        "through-our-import": {"class_path": "explainers.checkpoint.importlib.import_module"},
        "torch-module": {"class_path": "torch.nn.Linear"},
        "missing-class": {"class_path": "explainers.methods.constant.Missing"},
        "class-of-no-text": {"class_path": ["os", "system"]},
        "nested-model": {"explanandum": {"model": nested, "num_classes": None}},
        "nested-shell": {"explanandum": {"model": shell, "num_classes": None}},
        "nested-argument": {"hyper_parameters": {"value": nested}},
        "nested-shell-argument": {"hyper_parameters": {"seed": shell}},
        "nested-model-argument": {"explanandum": {"model_args": {"norm_layer": nested}}},
        "yaml-tag": {"hyper_parameters": {"value": f"!!python/object/apply:os.system [{touch}]"}},
    }


def source_attacks(secret):
    """Changes, by name, that would read a file or download one; `secret` is genuine weights."""
    secret = str(secret)
    return {
        "weights": {"explanandum": {"weights": secret}},
        "weights-outside": {"explanandum": {"weights": secret, "in_checkpoint": False}},
        "model-is-a-file": {"explanandum": {"model": secret}},
        "checkpoint-path": {"explanandum": {"model_args": {"checkpoint_path": secret}}},
        "pretrained": {"explanandum": {"pretrained": True}},
        "pretrained-outside": {"explanandum": {"pretrained": True, "in_checkpoint": False}},
        "pretrained-argument": {"explanandum": {"model_args": {"pretrained_cfg_overlay": {
            "file": secret}, "pretrained_strict": False}, "pretrained": True}},
        "hub-name": {"explanandum": {"model": "hf-hub:evil/net"}},
        "hub-name-2": {"explanandum": {"model": "hf_hub:evil/net"}},
        "local-folder": {"explanandum": {"model": f"local-dir:{os.path.dirname(secret)}"}},
    }  # fmt: skip


def encoder_attacks(secret):
    """Changes, by name, of the stored network of a DeepLab explainer."""
    secret = str(secret)
    return {
        "backbone-hub": {"hyper_parameters.network": {"backbone": "tu-hf-hub:evil/net"}},
        "backbone-url": {"hyper_parameters.network": {"backbone": "https://evil.example/net"}},
        "backbone-folder": {
            "hyper_parameters.network": {"backbone": f"tu-local-dir:{os.path.dirname(secret)}"}
        },
        "backbone-weights": {"hyper_parameters.network": {"backbone_weights": secret}},
        "backbone-pretrained": {"hyper_parameters.network": {"pretrained": True}},
    }


def pickles(folder):
    """Files with a bomb, by name: archives and plain pickles, below and beside a checkpoint."""
    folder = Path(folder)

    def archive(path, content, **how):
        torch.save(content, path, **how)

    def plain(path, content, protocol=2):
        Path(path).write_bytes(pickle.dumps(content, protocol))

    content = {"state_dict": Bomb(folder / "pickle.marker")}
    beside = {"state_dict": {}, "callbacks": {"x": Bomb(folder / "pickle.marker")}}
    made = {}
    for name, write, what in (
        ("archive", archive, content),
        ("beside", archive, beside),
        ("pickle-2", plain, content),
        ("pickle-0", lambda path, what: plain(path, what, 0), content),
        (
            "old-torch",
            lambda path, what: archive(path, what, _use_new_zipfile_serialization=False),
            content,
        ),
    ):
        for ending in ("ckpt", "pth", "safetensors"):
            path = folder / f"{name}.{ending}"
            write(path, what)
            made[name, ending] = str(path)
    return made


def training_attacks(folder):
    """Changes of the training state of a fit's checkpoint in a folder, by name, as functions.

    They would have memory overrun, or files of the folder deleted, or end in a traceback.
    """

    def fused(name, value):
        def change(content):
            for state in content["optimizer_states"]:
                for group in state["param_groups"]:
                    group |= {"fused": True, "foreach": False}
                for kept in state["state"].values():
                    kept[name] = value(kept[name])

        return change

    def saved(key, value):
        def change(content):
            for state in content["callbacks"].values():
                if "best_model_path" in state:
                    state[key] = value

        return change

    def put(key, value):
        return lambda content: content.update({key: value})

    folder = Path(folder)
    victims = {"folder": folder / "precious", "file": folder / "fit.json", "run": folder}
    elsewhere = folder.parent / "elsewhere.ckpt"
    return {
        "fused-short": fused("exp_avg", lambda value: torch.zeros(1)),
        "fused-expanded": fused("exp_avg_sq", lambda value: torch.zeros(1).expand(value.shape)),
        "fused-long": fused("exp_avg", lambda value: torch.zeros(10**6)),
        "fused-step": fused("step", lambda value: torch.zeros(3)),
        "fused-sparse": fused("exp_avg", lambda value: value.to_sparse()),
        **{f"best-is-a-{n}": saved("best_model_path", str(p)) for n, p in victims.items()},
        **{f"last-is-a-{n}": saved("last_model_path", str(p)) for n, p in victims.items()},
        "best-of-k-is-a-folder": saved("best_k_models", {str(victims["folder"]): torch.zeros(())}),
        "worst-of-k-is-a-folder": saved("kth_best_model_path", str(victims["folder"])),
        "best-is-elsewhere": saved("best_model_path", str(elsewhere)),
        "fused-without-callbacks": lambda content: (
            fused("exp_avg", lambda value: torch.zeros(1))(content),
            content.pop("callbacks"),
        ),
        "best-is-a-folder-with-the-ending": saved("best_model_path", str(folder / "precious.ckpt")),
        "monitor-text": saved("monitor", "val/loss"),
        "loops-text": put("loops", "junk"),
        "loops-steps-text": lambda content: content["loops"]["fit_loop"][
            "epoch_loop.state_dict"
        ].update(_batches_that_stepped="junk"),
        "schedulers-method": put("lr_schedulers", [{"step": "junk"}]),
        "version-number": put("pytorch-lightning_version", 2.6),
        "loops-empty": put("loops", {}),
        "callbacks-list": put("callbacks", [1]),
        "optimizers-none": put("optimizer_states", None),
        "optimizers-empty": put("optimizer_states", [{}]),
        "schedulers-text": put("lr_schedulers", "junk"),
        "version-old": put("pytorch-lightning_version", "1.5.0"),
        "version-text": put("pytorch-lightning_version", "junk"),
        "gradients-text": put("gradients", "junk"),
    }
