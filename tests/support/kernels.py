"""Which kernel computes attention."""

from torch.utils._python_dispatch import TorchDispatchMode


class FusedCalls(TorchDispatchMode):
    """Counts calls of the fused attention of a CPU."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += str(func) == "aten._scaled_dot_product_flash_attention_for_cpu.default"
        return func(*args, **(kwargs or {}))
