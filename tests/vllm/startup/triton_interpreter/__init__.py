"""For the test environment only: Triton's own interpreter as its backend for CPUs, so that Model Runner V2 runs there.

vLLM's second runner needs Triton, and on CPUs a build of it that PyPI does not have. With TRITON_INTERPRET=1 Triton's
kernels run in Python; vLLM asks only whether a backend of the name "cpu" is known, which an entry point says.
"""
