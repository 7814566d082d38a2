"""Never called: interpreted kernels are not compiled. Triton looks for one class here."""

from triton.backends.nvidia.compiler import CUDABackend

__all__ = ["CUDABackend"]
