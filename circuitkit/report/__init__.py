"""Results, shown: reads what runs and comparisons left, and computes nothing of its own."""
