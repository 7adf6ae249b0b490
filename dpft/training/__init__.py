"""From a spec to a trained model."""
