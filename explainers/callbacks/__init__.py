"""What happens around a run: scoring, drawing, saving."""
