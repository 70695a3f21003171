"""Decoder language models: Llama, its data, tasks and training."""
