"""The suites that users run: ``pytest --pyargs saebench.suites --saebench-config saebench.toml``.

One test item per checkpoint and gate, with plain asserts; the plugin parametrises them from the
configuration and measures all checkpoints in one pass the first time any of them is needed.
"""
