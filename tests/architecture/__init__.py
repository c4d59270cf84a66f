"""The architecture of the package, tested on its source."""
