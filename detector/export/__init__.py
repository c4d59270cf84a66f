"""TODO detector/export."""
