"""A report as six slides: one HTML file that needs no connection, or PowerPoint."""
