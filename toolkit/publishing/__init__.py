"""Bundles go to registries: the Hugging Face hub, MLflow. Without torch."""
