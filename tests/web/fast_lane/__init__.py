"""The lane that answers requests for ids without aiohttp."""
