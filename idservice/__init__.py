"""Unique, short numbers from in-memory blocks over SQLite or DynamoDB."""

__version__ = "0.1.0"
