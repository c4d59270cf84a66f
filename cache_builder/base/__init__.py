"""TODO cache_builder/base."""
