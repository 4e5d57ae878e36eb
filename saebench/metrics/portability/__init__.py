"""Portability: what becomes of a checkpoint's codes and reconstructions under another form of its model."""
