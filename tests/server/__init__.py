"""Settings, listeners, start and stop, and real processes of the service."""
