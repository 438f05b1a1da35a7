"""Reading and writing tables, journals of unfinished runs, and model folders."""
