"""The control plane: what a counter is, and how it changes."""
