"""Our attacks and inspectors beside their peers, and beside the passes that they cannot avoid."""
