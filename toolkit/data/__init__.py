"""Where images come from: folders, splits, real data sets, loaders, checks."""
