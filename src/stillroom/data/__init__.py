"""From files or bundled sets to typed batches: sources, column kinds, targets, splits and folds."""
