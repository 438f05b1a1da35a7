"""Model evaluation: metrics with intervals, source comparisons, reports, cost trade-offs, suspected label errors."""
