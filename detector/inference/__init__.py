"""TODO detector/inference."""
