"""What the results say: winners and ties, importance, comparisons, a week of a team. Pure."""
