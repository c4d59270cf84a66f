"""TODO cache_builder/teacher."""
