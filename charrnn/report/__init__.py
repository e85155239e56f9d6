"""A run and its model as pages to look at."""
