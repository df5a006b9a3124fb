"""The data plane: ids of counters in use on one instance."""
