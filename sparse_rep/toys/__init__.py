"""Small models trained here on text that every machine has, and shipped with the package: something real to look at, anywhere."""
