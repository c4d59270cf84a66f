"""TODO detector/config."""
