"""HTML pages about runs, and models exported as HTML pages."""
