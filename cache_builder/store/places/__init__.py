"""TODO cache_builder/store/places."""
