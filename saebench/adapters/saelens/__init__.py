"""SAELens, all versions, and the layouts that its users left behind."""
