"""Measuring a detector: detections, ground truth, engines, figures, intervals."""
