"""Callbacks that score, draw and save explanations during a run."""
