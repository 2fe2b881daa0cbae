"""From a run on the whole corpus, and runs on its folds, to a model that ships."""
