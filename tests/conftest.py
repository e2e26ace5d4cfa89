import pytest
import torch

from explainers.memory import keep_freed
from explainers.trust import granting

keep_freed()  # as the command line does
torch.set_num_threads(1)  # the tests' tensors are too small to share


def pytest_configure(config):
    # Small networks of the tests are random and made for images in [0, 1] as they are.
    assumed = ("the normalization of .* is not known", ".* has random weights")
    for message in (*assumed, "the classifier has .* not above chance"):
        config.addinivalue_line("filterwarnings", f"ignore:{message}")


@pytest.fixture(autouse=True)
def _own_modules():
    """The tests' methods and classifiers are like those of a user, who trusts them."""
    with granting("tests"):
        yield
