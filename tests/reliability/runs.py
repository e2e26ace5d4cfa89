"""The small runs that the trials disturb, as dicts of configuration files."""

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
METRICS = "explainers.metrics"


def explanandum(model, **arguments):
    known = {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [32, 32]}
    arguments = {"model": str(model), **known, **arguments}
    return {"class_path": "explainers.Explanandum", "init_args": arguments}


def method(kind, model, **arguments):
    """The model group of a method (a class path below explainers.methods, or a whole one)."""
    kind = kind if kind.startswith("tests.") else f"explainers.methods.{kind}"
    init = {"explanandum": explanandum(model), **arguments}
    return {"model": {"class_path": kind, "init_args": init}}


def shapes(**changes):
    """Shapes of 32 x 32."""
    counts = {"train_images": 32, "val_images": 4, "test_images": 24}
    arguments = {"image_size": [32, 32], "batch_size": 4, **counts, **changes}
    return {"data": {"class_path": "datamodules.shapes.Shapes", "init_args": arguments}}


def folder(root, **changes):
    """The images of `trials.pictures`, of which half are the test split."""
    arguments = {"root": str(root), "batch_size": 2, "fractions": [0.25, 0.25, 0.5]}
    arguments |= {"test_on": "test", "image_size": [32, 32], **changes}
    return {"data": {"class_path": "datamodules.folder.ImageFolder", "init_args": arguments}}


def score(metrics=("localization.SoftIoU", "saliency.MaskSaliency"), **changes):
    """The score group without `seconds`, which no two runs share."""
    listed = [
        entry if isinstance(entry, dict) else {"class_path": f"{METRICS}.{entry}"}
        for entry in metrics
    ]
    settings = {"target": "label", "sanity": False, "panels": 0, "bootstrap": 10}
    return {"score": {**settings, "metrics": listed, **changes}}


def curves(steps=4):
    """Metrics that need no masks."""
    entry = {"class_path": f"{METRICS}.faithfulness.RISECurves", "init_args": {"steps": steps}}
    return ("classification.MaskedClassification", entry)


def trainer(**changes):
    return {"seed_everything": 0, "trainer": {**QUIET, **changes}}


def checkpoints(every=None):
    """Callbacks that keep the end of the epoch and, with `every`, one file each so many steps."""
    kind = "lightning.pytorch.callbacks.ModelCheckpoint"
    listed = [{"filename": "last", "enable_version_counter": False}]
    if every:
        steps = {"filename": "{step}", "every_n_train_steps": every, "save_top_k": -1}
        listed.append({**steps, "enable_version_counter": False})
    return [{"class_path": kind, "init_args": each} for each in listed]


def fit(model, epochs=3, every=4, **data):
    """A DeepLab of eight steps an epoch."""
    network = {"backbone": "tu-test_resnet", "decoder_channels": 16, "atrous_rates": [1, 2, 3]}
    return {
        **trainer(max_epochs=epochs, callbacks=checkpoints(every), num_sanity_val_steps=0),
        **method("deeplab.DeepLabExplainer", model, network=network),
        **shapes(**data),
    }
