from explainers.evaluation import report
from explainers.evaluation.summary import summarize
from explainers.metrics.localization import MAE
from explainers.metrics.seconds import Seconds
from tests import planted
from tests.support import Truth

ABOUT = {"explanandum": "net", "classifier": None, "data": "Photos", "target": "label"}


def page(metrics, **about):
    methods = {"truth": Truth(planted.explanandum())}
    columns = [name for metric in metrics for name in metric.names]
    rows = [
        {"index": str(i), "name": f"{i}", "target": "0", "method": "truth"}
        | dict.fromkeys(columns, "0.5")
        for i in range(12)
    ]
    summary = {**ABOUT, "precision": "32-true", **about}
    summary |= summarize(rows, metrics, ["truth"], bootstrap=5)
    return report.page(summary, rows, metrics, methods, (8, 8))


def test_the_caption_says_what_was_measured():
    assert page([MAE()]).splitlines()[0] == (
        "12 images, net, Photos, target: label, precision: 32-true"
    )
    judged = {"figure": "F1", "value": 0.5, "ci95": [0.25, 0.75], "images": 9, "problem": None}
    assert page([MAE()], classifier=judged, precision="bf16-mixed").splitlines()[0] == (
        "12 images, net (F1 50.0 % [25.0, 75.0]), Photos, target: label, precision: bf16-mixed"
    )


def test_scaled_maps_are_marked_only_where_a_metric_needs_it():
    text = page([MAE()])
    assert "| truth * |" in text
    assert "maps min-maxed one by one for MAE" in text
    assert "*" not in page([Seconds()])
