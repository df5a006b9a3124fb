"""The room allocation."""
