"""The command line: parses and prints. Light to import; the work is imported on use."""
