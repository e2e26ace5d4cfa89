"""One file a method: the folder is the registry."""
