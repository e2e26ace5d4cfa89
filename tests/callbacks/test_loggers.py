import pytest

from explainers.callbacks.loggers import OfflineFirstWandbLogger, has_account


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path


def test_an_account_is_a_key_or_a_login(nobody, monkeypatch):
    assert not has_account()
    (nobody / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert has_account()
    (nobody / "netrc").write_text("machine elsewhere login user password secret\n")
    assert not has_account()
    (nobody / "netrc").write_text("nonsense")
    assert not has_account()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert has_account()


def test_without_an_account_it_is_offline(nobody, monkeypatch):
    assert OfflineFirstWandbLogger(save_dir=str(nobody / "run"))._offline
    assert (nobody / "run").is_dir()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert not OfflineFirstWandbLogger(save_dir=str(nobody))._offline
    assert OfflineFirstWandbLogger(save_dir=str(nobody), offline=True)._offline


def test_artifacts_are_sent_only_on_demand_even_offline(nobody):
    assert not OfflineFirstWandbLogger(save_dir=str(nobody))._log_model
    sent = OfflineFirstWandbLogger(save_dir=str(nobody), offline=True, artifacts=True)
    assert sent._log_model is True
