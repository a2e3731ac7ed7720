"""Anyone's model: whatever a file, a folder or a name holds becomes a `Classifier`."""

from mithridate.models.open import open_model

__all__ = ["open_model"]
