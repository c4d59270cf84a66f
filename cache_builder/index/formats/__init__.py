"""TODO cache_builder/index/formats."""
