"""Perturbed images and the responses of a classifier to them."""
