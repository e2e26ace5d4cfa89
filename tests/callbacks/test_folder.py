import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from explainers.callbacks.folder import FitFolder
from explainers.methods.evidence_nem import EvidenceNEM
from tests import planted

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}


@pytest.mark.parametrize(
    ("epochs", "every", "saves", "refused"),
    [
        (3, 5, {}, True),  # no validation at all
        (7, 5, {}, True),  # the last two epochs
        (10, 5, {}, False),
        (7, 1, {}, False),
        (7, 5, {"save_on_train_epoch_end": True}, False),
        (7, 5, {"every_n_train_steps": 3}, False),
    ],
)
def test_a_last_epoch_that_would_not_be_saved_is_refused(tmp_path, epochs, every, saves, refused):
    trainer = Trainer(
        max_epochs=epochs,
        check_val_every_n_epoch=every,
        callbacks=[ModelCheckpoint(tmp_path, **saves)],
        default_root_dir=tmp_path,
        **QUIET,
    )
    method = EvidenceNEM(planted.explanandum())
    trainer.strategy.connect(method)
    folder = FitFolder()
    if refused:
        with pytest.raises(ValueError, match=f"multiple of check_val_every_n_epoch, {every}; --tr"):
            folder.take(trainer, method)
        assert not (tmp_path / "fit.json").exists()
    else:
        folder.take(trainer, method)
        folder.teardown(trainer, method, "fit")
