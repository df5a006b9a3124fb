"""What the service costs, as ratios measured side by side. `python -m benchmarks --help`."""
