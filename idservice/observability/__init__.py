"""The room observability."""
