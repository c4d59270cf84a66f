"""TODO cache_builder/quality."""
