"""TODO detector/students."""
