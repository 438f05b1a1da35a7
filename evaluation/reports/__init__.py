"""Reports as JSON and Markdown: of a training, and of a measurement."""
