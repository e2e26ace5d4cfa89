"""Metrics on blurred maps are the metrics of the blurred maps."""

import numpy as np
import pytest
import torch

from explainers.functional.smoothing import smooth_inside
from explainers.metrics.blurred import BlurredMaps
from explainers.metrics.complexity import Sparseness
from explainers.metrics.faithfulness import RISECurves
from explainers.metrics.localization_boxes import LocalizationError
from explainers.metrics.pointing import EnergyPointingGame
from explainers.metrics.sensitivity import AverageSensitivity
from tests.metrics.test_missing import scene


def test_values_and_curves_are_those_of_the_smoothed_maps():
    inputs = scene()
    smooth = smooth_inside(inputs["maps"], 17, 2.0)
    for metric in (RISECurves(steps=4), EnergyPointingGame()):
        blurred = BlurredMaps(metric, sigma=2.0)
        found = blurred.measure(**inputs)
        expected = metric.measure(**inputs | {"maps": smooth})
        assert list(found) == [f"Blurred{name}" for name in metric.names]
        for name, values in expected.items():
            torch.testing.assert_close(found[f"Blurred{name}"], values, equal_nan=True)
            assert blurred.direction(f"Blurred{name}") == metric.direction(name)
        assert set(blurred.curves) == {f"Blurred{name}" for name in metric.curves}
    plain = Sparseness().measure(**inputs)["Sparseness"]
    blurred = BlurredMaps(Sparseness(), sigma=2.0).measure(**inputs)["BlurredSparseness"]
    assert (blurred < plain).all()


def test_figures_of_the_data_set_come_from_the_other_metric():
    metric = LocalizationError(alphas=[0.1, 0.5])
    blurred = BlurredMaps(metric)
    columns = {name: np.array([0.0, 1.0, 1.0]) for name in metric.names}
    prefixed = {f"Blurred{name}": values for name, values in columns.items()}
    assert blurred.reports == ("BlurredLocalizationError",)
    assert blurred.aggregate(prefixed) == {"BlurredLocalizationError": 0.0}
    np.testing.assert_equal(
        blurred.averaged(prefixed)["BlurredLocalizationError"],
        metric.averaged(columns)["LocalizationError"],
    )


def test_the_settings_of_the_other_metric_are_on_record():
    assert BlurredMaps(RISECurves(steps=4)).settings["steps"] == 4
    assert BlurredMaps(RISECurves(batch_size=4)).settings == BlurredMaps(RISECurves()).settings
    note = BlurredMaps(RISECurves(pixels=1, draws=5)).note((8, 8))
    assert note.startswith("on blurred maps: InsertionAUC")
    assert BlurredMaps(RISECurves()).note((8, 8)) == ""


def test_what_cannot_be_blurred_is_refused():
    with pytest.raises(ValueError, match="AverageSensitivity is not a metric of one given map"):
        BlurredMaps(AverageSensitivity())
    with pytest.raises(ValueError, match="sigma > 0, got 0"):
        BlurredMaps(RISECurves(), sigma=0)
