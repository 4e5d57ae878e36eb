"""dictionary_learning and its forks: runs, hub folders, difference SAEs, crosscoders."""
