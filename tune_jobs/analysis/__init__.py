"""Analysis of results: winners and ties, importance, comparisons, a team's week. Pure."""
