import torch

torch.set_num_threads(1)  # the tests' tensors are too small to share
