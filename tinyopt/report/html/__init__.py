"""report.html: one page that shows what the passes did, and opens from disk without a network."""
