"""The evaluation report as one HTML file for people: no script, no request, texts escaped."""
