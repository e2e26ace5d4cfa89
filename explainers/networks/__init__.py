"""The networks that are trained to explain."""
