"""The arithmetic that makers of GPUs name: the most floating-point operations a second of dense bf16 products.

MFU as others publish it is a share of this figure. No product reaches it: an H100 lowers its clock before.
"""

# TFLOP/s, float32 sums, without sparsity (data sheets give twice this with it). The first name that a GPU's name has counts.
TFLOPS = {
    'GB200': 2500,  # NVIDIA GB200 NVL72, data sheet: 360 PFLOP/s with sparsity for 72 GPUs
    'B200': 2250,  # NVIDIA DGX B200, data sheet: 36 PFLOP/s with sparsity for 8 GPUs
    'GH200': 989.5,  # NVIDIA GH200, data sheet: 1,979 with sparsity
    'H200 NVL': 835.5,  # NVIDIA H200, data sheet: 1,671 with sparsity
    'H200': 989.5,  # the same: 1,979 with sparsity
    'H100 NVL': 835.5,  # NVIDIA H100, data sheet: 1,671 with sparsity
    'H100 PCIe': 756.5,  # NVIDIA H100 PCIe, product brief: 1,513 with sparsity
    'H100': 989.5,  # NVIDIA H100 SXM, data sheet: 1,979 with sparsity
    'A100': 312,  # NVIDIA A100, data sheet, SXM and PCIe
    'L40S': 362,  # NVIDIA L40S, data sheet: 733 with sparsity, 362.05 without
    'L40': 181,  # NVIDIA L40, data sheet: 181.05
    'L4': 121,  # NVIDIA L4, data sheet: 242 with sparsity
    'RTX 5090': 209.5,  # NVIDIA RTX Blackwell architecture whitepaper, appendix
    'RTX 4090': 165.2,  # NVIDIA Ada architecture whitepaper, appendix
    'RTX 3090': 71,  # NVIDIA Ampere GA102 architecture whitepaper, appendix
    'RTX A6000': 154.8,  # the same
}


def makers_peak_flops(gpu: str) -> float | None:
    """Floating-point operations a second, by the name that the driver gives a GPU; None for one that is not in the list."""
    return next((1e12 * tflops for name, tflops in TFLOPS.items() if name in gpu), None)
