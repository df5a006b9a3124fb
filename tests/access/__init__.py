"""The access keys and the rights of a request."""
