"""Optimising explanations for one image at a time."""
