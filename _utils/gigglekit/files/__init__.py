"""Files and folders, handled by descriptor: what a path names may be changed by others while it is worked on."""
