"""How good a model is: metrics with intervals, comparisons of its sources, reports, trade-offs, suspected labels."""
