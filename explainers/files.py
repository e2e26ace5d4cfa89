"""Reading checkpoints and weights as plain data."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def read_checkpoint(path: str) -> dict[str, Any]:
    """A Lightning checkpoint on the CPU, plain types and tensors only.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint {path!r} does not exist")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a checkpoint") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint")
    return checkpoint


def read_state(path: str) -> dict[str, Tensor]:
    """The state dict in a .safetensors, .pth or .pt file, or in a `Classifier`'s .ckpt.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"weights file {path!r} does not exist; relative paths start at the working directory"
        )
    if path.endswith(".ckpt"):
        return read_classifier(path)[1]
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
    return {name.removeprefix("module."): value for name, value in state.items()}


def read_classifier(path: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Plain arguments and the network's state dict in a checkpoint of `Classifier`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else.
    """
    checkpoint = read_checkpoint(path)
    hparams = checkpoint.get("hyper_parameters", {})
    state = {
        name.removeprefix("network."): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith("network.")
    }
    if "model" not in hparams or not state:
        raise ValueError(
            f"{path} is not a checkpoint of explainers.explanandum.classifier.Classifier"
        )
    keys = (
        "model",
        "num_classes",
        "model_args",
        "multi_label",
        "class_names",
        "mean",
        "std",
        "input_size",
    )
    return {key: hparams.get(key) for key in keys}, state
