"""What a split's logits and labels say: metrics, their intervals, ranking and calibration."""
