"""What production imports: numpy, Pillow, onnxruntime and pydantic; never torch, never transformers."""
