"""Anyone's model: whatever a file, a folder or a name holds becomes a `Classifier`."""

from mithridate.models.open import open_for, open_model

__all__ = ["open_for", "open_model"]
