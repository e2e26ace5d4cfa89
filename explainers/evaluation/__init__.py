"""Evaluation of explainers: measure, store, summarize and draw."""
