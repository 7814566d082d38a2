"""For the test environment only: torchvision's wheel beside a CPU build of torch.

vLLM imports torchvision, whose compiled operators do not load there; its Python part fails for want of two schemas.
They are declared when torchvision is imported first, in every process.
"""

import importlib.abc
import importlib.machinery
import sys


class _Schemas(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)
        import torch

        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _Schemas.library = library  # lives as long as the process
        return importlib.machinery.PathFinder.find_spec(name, path)


sys.meta_path.insert(0, _Schemas())
