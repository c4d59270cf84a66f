"""TODO detector/drawing."""
