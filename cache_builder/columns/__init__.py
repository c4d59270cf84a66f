"""TODO cache_builder/columns."""
