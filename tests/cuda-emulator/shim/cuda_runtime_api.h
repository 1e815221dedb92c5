// Everything of it that kernels use is in cuda_shim.h.
#pragma once
