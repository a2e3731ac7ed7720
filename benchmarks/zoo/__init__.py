"""A zoo of clean and backdoored classifiers, by which inspectors are calibrated and measured."""
