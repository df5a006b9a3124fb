"""HTTP over a service."""
