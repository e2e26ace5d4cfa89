"""Metrics of explanations, one module per family."""
