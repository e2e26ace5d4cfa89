"""What the server of the processes imports before the first of them starts."""

import importlib

for name in (
    "segmentation_models_pytorch",
    "skimage",
    "timm",
    "torchvision",
    "torchvision.models",
    "datamodules.folder",
    "datamodules.shapes",
    "explainers.callbacks.loggers",
    "explainers.callbacks.maps",
    "explainers.cli",
    "explainers.methods.constant",
    "explainers.methods.deeplab",
    "explainers.methods.rise",
    "explainers.metrics.classification",
    "explainers.metrics.faithfulness",
    "explainers.metrics.localization",
    "tests.reliability.own",
):
    importlib.import_module(name)
