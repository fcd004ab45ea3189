"""The functional forms: ``import scratch_layers.functional as F`` in place of torch's."""
