"""The report of a study: tables, charts and pictures from its records alone."""
