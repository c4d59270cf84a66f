"""TODO detector/data."""
