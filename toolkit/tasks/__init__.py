"""What is predicted: the loss, the activation in the graph, the decision, the metrics and the calibration."""
