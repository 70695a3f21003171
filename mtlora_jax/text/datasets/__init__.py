"""Text data: rows, corpora and batches of them."""
