"""TODO detector/losses."""
