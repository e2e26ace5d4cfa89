"""Data sets as Lightning data modules, which configs name by their full class path."""
