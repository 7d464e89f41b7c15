"""The sweep file: read strictly, as values, with its search space and its rules."""
