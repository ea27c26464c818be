/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A libcuda to link cudacheck against, and, as the stale library that images
 * wrongly bring along, one that only says that it is the wrong one: each
 * function returns 418.
 */
#define STUB(f) __attribute__((visibility("default"))) int f(void) { return 418; }

STUB(cuInit) STUB(cuDriverGetVersion) STUB(cuDeviceGetCount) STUB(cuDeviceGet) STUB(cuDeviceGetName)
STUB(cuDeviceGetUuid) STUB(cuDeviceTotalMem_v2) STUB(cuCtxCreate_v2) STUB(cuCtxDestroy_v2)
STUB(cuCtxSynchronize) STUB(cuModuleLoadDataEx) STUB(cuModuleGetFunction) STUB(cuMemAlloc_v2)
STUB(cuMemFree_v2) STUB(cuMemcpyHtoD_v2) STUB(cuMemcpyDtoH_v2) STUB(cuLaunchKernel)
