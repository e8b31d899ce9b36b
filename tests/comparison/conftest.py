"""Its presence puts this folder, whose helpers the tests below it share, on the import path."""
