"""The offline half: from annotated photos to proven columns."""
