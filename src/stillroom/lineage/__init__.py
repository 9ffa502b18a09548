"""Who taught what, under which licence, and whether that is permitted. Runs without heavy packages."""
