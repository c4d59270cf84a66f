"""TODO detector/students/deformable_detr."""
