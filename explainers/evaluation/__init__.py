"""The machinery of one table: measure, write, summarise, draw."""
