"""One module per table or figure of the papers: what it needs trained, and what it finds."""
