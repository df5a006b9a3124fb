"""The room fast_lane."""
