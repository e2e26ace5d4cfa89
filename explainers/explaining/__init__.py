"""Explaining photographs: pictures of the maps of several methods and classes."""
