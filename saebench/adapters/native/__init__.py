"""Our own layout for what other libraries have none for."""
