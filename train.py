"""Train an explainer or a classifier: python train.py fit -c configs/quickstart.yaml."""

import sys

from explainers.cli import CLI, main

if __name__ == "__main__":
    sys.exit(main(CLI))
