"""Score and rank explainers, or explain a folder of images: python evaluate.py {test,predict,validate} ..."""

import sys

from explainers.cli import EvaluateCLI, main

if __name__ == "__main__":
    sys.exit(main(EvaluateCLI))
