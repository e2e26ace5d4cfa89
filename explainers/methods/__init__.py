"""Explanation methods, one file for each; configs name their classes by full path."""
