"""Formats of one .pt file: OpenAI, Goodfire, nanochat-SAE."""
