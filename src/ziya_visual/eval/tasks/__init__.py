"""One file a task: how it is put to a model, and which numbers come of the answers."""
