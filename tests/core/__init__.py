"""The pure core: unit tests and properties."""
