"""Never called: interpreted kernels are not launched. Triton looks for one class here."""

from triton.backends.nvidia.driver import CudaDriver

__all__ = ["CudaDriver"]
