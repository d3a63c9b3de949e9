"""Runs ONNX, TorchScript and torch.export models, and reads their outputs."""
