"""TODO detector/runs."""
