"""Several processes on one port, and one answer for all of them where one is asked."""
