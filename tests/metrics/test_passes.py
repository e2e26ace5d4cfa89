from explainers.base import Explainer
from explainers.evaluation.measure import score_batch
from explainers.methods.captum_methods import Saliency
from explainers.methods.rise import RISE
from explainers.metrics.passes import Passes
from tests import planted


def passes(method: Explainer) -> list[list[float]]:
    images, targets = planted.scenes(2)
    subject = method.explanandum
    inputs = {"images": images, "targets": targets, "explanandum": subject}
    values, _ = score_batch(method, [Passes()], inputs | {"logits": subject(images)})
    return [[row["forwards"], row["backwards"]] for row in values.values()]


def test_forward_and_backward_passes_of_each_image():
    assert passes(RISE(planted.explanandum(), masks=12, grid=4, batch_size=5)) == [[12, 0]] * 2
    assert passes(Saliency(planted.explanandum())) == [[1, 1]] * 2
