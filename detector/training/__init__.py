"""TODO detector/training."""
