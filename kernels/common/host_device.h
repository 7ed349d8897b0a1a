// Marks functions that kernels on a GPU call too.
#pragma once

#if defined(__CUDACC__)
#define SKV_HD __host__ __device__
#else
#define SKV_HD
#endif
