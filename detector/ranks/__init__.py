"""TODO detector/ranks."""
