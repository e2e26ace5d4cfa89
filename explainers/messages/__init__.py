"""What the command line says: an error in one line, what was probably meant, and help texts."""

from explainers.messages.errors import one_line

__all__ = ["one_line"]
