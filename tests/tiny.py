"""A small network with any end, and a context in which no warning passes unnoticed."""

import torch
from torch import nn

KNOWN = {"mean": [0.5] * 3, "std": [0.25] * 3}


class Tiny(nn.Module):
    """A convolution, the mean over the image and a linear head; `end` makes the output of it."""

    def __init__(self, classes=4, end=None, channels=3):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Conv2d(channels, 8, 3)
            self.head = nn.Linear(8, classes)
        self.end = end

    def logits(self, images):
        return self.head(3 * self.body(images).relu().mean(dim=(2, 3)))

    def forward(self, images):
        logits = self.logits(images)
        return logits if self.end is None else self.end(logits)


def images(count=3, size=(16, 16)):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1))
