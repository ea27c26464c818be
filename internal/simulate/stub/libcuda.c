/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated libcuda.so.1. It finds devices as the real one does, by opening
 * their nodes, tells their names and numbers, and computes nothing: what would
 * need a GPU returns CUDA_ERROR_NOT_SUPPORTED.
 */
#include "sim.h"

SIM_DEFINE_TABLE

typedef int CUresult;
typedef int CUdevice;

enum {
	SUCCESS = 0,
	INVALID_VALUE = 1,
	NOT_INITIALIZED = 3,
	NO_DEVICE = 100,
	INVALID_DEVICE = 101,
	NOT_FOUND = 500,
	NOT_SUPPORTED = 801,
	UNKNOWN = 999,
};

static struct sim_seen seen;
static int ready;

EXPORT CUresult cuInit(unsigned flags)
{
	if (flags)
		return INVALID_VALUE;
	if (ready)
		return SUCCESS;
	if (sim_try("/dev/nvidiactl"))
		return NO_DEVICE;
	sim_look(table(), &seen);
	if (!seen.n)
		return NO_DEVICE;
	/* GPUs without the memory module's node: the real one says "unknown error". */
	if (sim_try("/dev/nvidia-uvm"))
		return UNKNOWN;
	ready = 1;
	return SUCCESS;
}

EXPORT CUresult cuDriverGetVersion(int *version)
{
	if (!version)
		return INVALID_VALUE;
	*version = (int)table()->cuda;
	return SUCCESS;
}

EXPORT CUresult cuDeviceGetCount(int *count)
{
	if (!ready)
		return NOT_INITIALIZED;
	if (!count)
		return INVALID_VALUE;
	*count = seen.n;
	return SUCCESS;
}

EXPORT CUresult cuDeviceGet(CUdevice *dev, int i)
{
	if (!ready)
		return NOT_INITIALIZED;
	if (!dev)
		return INVALID_VALUE;
	if (i < 0 || i >= seen.n)
		return INVALID_DEVICE;
	*dev = i;
	return SUCCESS;
}

static CUresult card(CUdevice dev, const void *out, struct sim_gpu **gpu)
{
	if (!ready)
		return NOT_INITIALIZED;
	if (!out)
		return INVALID_VALUE;
	if (dev < 0 || dev >= seen.n)
		return INVALID_DEVICE;
	*gpu = seen.gpu[dev];
	return SUCCESS;
}

/* Cuts what does not fit, as the real one does. */
static CUresult text(char *to, int size, const char *from)
{
	int i = 0;
	if (size <= 0)
		return INVALID_VALUE;
	for (; i < size - 1 && from[i]; i++)
		to[i] = from[i];
	to[i] = 0;
	return SUCCESS;
}

EXPORT CUresult cuDeviceGetName(char *name, int size, CUdevice dev)
{
	struct sim_gpu *g;
	CUresult r = card(dev, name, &g);
	return r ? r : text(name, size, g->name);
}

EXPORT CUresult cuDeviceGetUuid(void *uuid, CUdevice dev)
{
	struct sim_gpu *g;
	CUresult r = card(dev, uuid, &g);
	if (!r)
		memcpy(uuid, g->raw, 16);
	return r;
}

EXPORT CUresult cuDeviceGetUuid_v2(void *uuid, CUdevice dev) { return cuDeviceGetUuid(uuid, dev); }

EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev)
{
	struct sim_gpu *g;
	CUresult r = card(dev, bytes, &g);
	if (!r)
		*bytes = g->memory;
	return r;
}

/* The first version of the interface counted memory in 32 bits. */
EXPORT CUresult cuDeviceTotalMem(unsigned *bytes, CUdevice dev)
{
	struct sim_gpu *g;
	CUresult r = card(dev, bytes, &g);
	if (!r)
		*bytes = g->memory > 0xffffffffu ? 0xffffffffu : (unsigned)g->memory;
	return r;
}

EXPORT CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice dev)
{
	struct sim_gpu *g;
	CUresult r = card(dev, major, &g);
	if (r)
		return r;
	if (!minor)
		return INVALID_VALUE;
	*major = (int)g->major_cc;
	*minor = (int)g->minor_cc;
	return SUCCESS;
}

EXPORT CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice dev)
{
	struct sim_gpu *g;
	CUresult r = card(dev, value, &g);
	if (r)
		return r;
	switch (attribute) {
	case 1: /* MAX_THREADS_PER_BLOCK */
	case 2: /* MAX_BLOCK_DIM_X */
	case 3: /* MAX_BLOCK_DIM_Y */
		*value = 1024;
		break;
	case 10: /* WARP_SIZE */
		*value = 32;
		break;
	case 33: /* PCI_BUS_ID */
		*value = (int)g->pcibus;
		break;
	case 34: /* PCI_DEVICE_ID */
		*value = (int)g->pcidev;
		break;
	case 50: /* PCI_DOMAIN_ID */
		*value = (int)g->domain;
		break;
	case 75: /* COMPUTE_CAPABILITY_MAJOR */
		*value = (int)g->major_cc;
		break;
	case 76: /* COMPUTE_CAPABILITY_MINOR */
		*value = (int)g->minor_cc;
		break;
	default: /* what is not simulated is not there */
		if (attribute <= 0)
			return INVALID_VALUE;
		*value = 0;
	}
	return SUCCESS;
}

EXPORT CUresult cuDeviceGetPCIBusId(char *id, int size, CUdevice dev)
{
	struct sim_gpu *g;
	CUresult r = card(dev, id, &g);
	return r ? r : text(id, size, g->bus);
}

EXPORT CUresult cuDeviceGetByPCIBusId(CUdevice *dev, const char *id)
{
	if (!ready)
		return NOT_INITIALIZED;
	if (!dev || !id)
		return INVALID_VALUE;
	for (int i = 0; i < seen.n; i++)
		if (sim_same(seen.gpu[i]->bus, id)) {
			*dev = i;
			return SUCCESS;
		}
	return INVALID_DEVICE;
}

static const struct {
	CUresult code;
	const char *name, *text;
} errors[] = {
	{ SUCCESS, "CUDA_SUCCESS", "no error" },
	{ INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument" },
	{ NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error" },
	{ NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected" },
	{ INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal" },
	{ NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found" },
	{ NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED",
	  "operation not supported (this GPU is simulated and does not compute)" },
	{ UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error" },
};

EXPORT CUresult cuGetErrorName(CUresult code, const char **out)
{
	if (!out)
		return INVALID_VALUE;
	*out = NULL;
	for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
		if (errors[i].code == code) {
			*out = errors[i].name;
			return SUCCESS;
		}
	return INVALID_VALUE;
}

EXPORT CUresult cuGetErrorString(CUresult code, const char **out)
{
	if (!out)
		return INVALID_VALUE;
	*out = NULL;
	for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
		if (errors[i].code == code) {
			*out = errors[i].text;
			return SUCCESS;
		}
	return INVALID_VALUE;
}

/* What would compute. */
#define UNSUPPORTED(X)                                                        \
	X(cuCtxCreate) X(cuCtxCreate_v2) X(cuCtxCreate_v3) X(cuCtxCreate_v4)  \
	X(cuCtxDestroy) X(cuCtxDestroy_v2) X(cuCtxSynchronize)                \
	X(cuCtxSetCurrent) X(cuCtxGetCurrent) X(cuCtxPushCurrent_v2)          \
	X(cuCtxPopCurrent_v2) X(cuCtxGetDevice) X(cuCtxGetApiVersion)         \
	X(cuDevicePrimaryCtxRetain) X(cuDevicePrimaryCtxRelease)              \
	X(cuDevicePrimaryCtxRelease_v2) X(cuDevicePrimaryCtxReset)            \
	X(cuDevicePrimaryCtxGetState) X(cuMemAlloc) X(cuMemAlloc_v2)          \
	X(cuMemAllocManaged) X(cuMemAllocHost) X(cuMemAllocHost_v2)           \
	X(cuMemHostAlloc) X(cuMemFree) X(cuMemFree_v2) X(cuMemFreeHost)       \
	X(cuMemGetInfo) X(cuMemGetInfo_v2) X(cuMemcpy) X(cuMemcpyHtoD)        \
	X(cuMemcpyHtoD_v2) X(cuMemcpyDtoH) X(cuMemcpyDtoH_v2)                 \
	X(cuMemcpyDtoD_v2) X(cuMemsetD8_v2) X(cuMemsetD32_v2)                 \
	X(cuModuleLoad) X(cuModuleLoadData) X(cuModuleLoadDataEx)             \
	X(cuModuleLoadFatBinary) X(cuModuleUnload) X(cuModuleGetFunction)     \
	X(cuModuleGetGlobal_v2) X(cuLibraryLoadData) X(cuLaunchKernel)        \
	X(cuStreamCreate) X(cuStreamDestroy_v2) X(cuStreamSynchronize)        \
	X(cuEventCreate) X(cuEventRecord) X(cuEventSynchronize)               \
	X(cuEventDestroy_v2) X(cuEventElapsedTime) X(cuGetExportTable)

#define DEFINE(f) EXPORT CUresult f(void) { return NOT_SUPPORTED; }
UNSUPPORTED(DEFINE)

EXPORT CUresult cuGetProcAddress(const char *, void **, int, uint64_t);
EXPORT CUresult cuGetProcAddress_v2(const char *, void **, int, uint64_t, int *);

#define NAME(f) { #f, (void *)f },
static const struct {
	const char *name;
	void *fn;
} functions[] = {
	NAME(cuInit) NAME(cuDriverGetVersion) NAME(cuDeviceGetCount) NAME(cuDeviceGet)
	NAME(cuDeviceGetName) NAME(cuDeviceGetAttribute) NAME(cuDeviceGetPCIBusId)
	NAME(cuDeviceGetByPCIBusId) NAME(cuDeviceComputeCapability)
	NAME(cuGetErrorName) NAME(cuGetErrorString) NAME(cuGetProcAddress_v2)
	/* by this way names without a version mean the newest */
	{ "cuDeviceGetUuid", (void *)cuDeviceGetUuid_v2 },
	{ "cuDeviceTotalMem", (void *)cuDeviceTotalMem_v2 },
	{ "cuGetProcAddress", (void *)cuGetProcAddress_v2 },
	UNSUPPORTED(NAME)
};

EXPORT CUresult cuGetProcAddress_v2(const char *symbol, void **fn, int version, uint64_t flags, int *status)
{
	(void)version, (void)flags;
	if (!symbol || !fn)
		return INVALID_VALUE;
	*fn = NULL;
	for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
		if (sim_same(functions[i].name, symbol)) {
			*fn = functions[i].fn;
			if (status)
				*status = 0;
			return SUCCESS;
		}
	if (status)
		*status = 1; /* symbol not found */
	return NOT_FOUND;
}

EXPORT CUresult cuGetProcAddress(const char *symbol, void **fn, int version, uint64_t flags)
{
	return cuGetProcAddress_v2(symbol, fn, version, flags, NULL);
}
