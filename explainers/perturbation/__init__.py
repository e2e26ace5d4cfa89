"""Showing altered images to a classifier."""
