"""Optimization of explanations for one image at a time."""
