"""The cost of the service, as ratios measured side by side. `python -m benchmarks --help`."""
