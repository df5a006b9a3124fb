"""Tests of what is under deploy/: manifests, charts, task definitions."""
