"""The matcher of layer norm and RMS norm, and of their gradients."""
