"""Alerts, the dashboard, and a real Prometheus that scrapes a real service."""
