"""Jobs that ask by batch APIs: what was submitted is kept beside the output, and collected later."""
