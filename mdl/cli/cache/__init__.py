"""`mdl cache`: list, show, prune, normalize, verify and undo."""
