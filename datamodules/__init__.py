"""Data sets as Lightning data modules; configs name the classes by their full path."""
