"""PyTorch's own operation and module databases through the transforms, judged by plain loops and finite differences."""
