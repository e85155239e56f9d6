"""From a trained model to text; knows no training."""
