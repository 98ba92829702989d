"""Where pictures come from: files, folders, the pictures that come with the package, and rendered faces."""
