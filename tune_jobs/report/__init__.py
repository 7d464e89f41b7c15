"""Reports on a sweep: one page for a browser, one text, one picture, from one analysis."""
