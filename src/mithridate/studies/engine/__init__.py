"""The engine under every study: units of work that are planned, cached, shared and resumed."""
