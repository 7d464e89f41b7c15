"""Reports of a sweep: HTML page, Markdown text and picture, from one analysis."""
