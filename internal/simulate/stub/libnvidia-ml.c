/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated libnvidia-ml.so.1: what nvidia-smi, device plugins and
 * monitoring ask first. It finds devices by opening their nodes, as the real
 * one does.
 */
#include "sim.h"

SIM_DEFINE_TABLE

typedef int nvmlReturn;
typedef struct sim_gpu *nvmlDevice;

enum {
	SUCCESS = 0,
	UNINITIALIZED = 1,
	INVALID_ARGUMENT = 2,
	NOT_SUPPORTED = 3,
	NO_PERMISSION = 4,
	NOT_FOUND = 6,
	INSUFFICIENT_SIZE = 7,
	DRIVER_NOT_LOADED = 9,
	UNKNOWN = 999,
};

static struct sim_seen seen;
static int users;

EXPORT nvmlReturn nvmlInit_v2(void)
{
	if (users++)
		return SUCCESS;
	int err = sim_try("/dev/nvidiactl");
	if (err == 0) {
		sim_look(table(), &seen);
		return SUCCESS;
	}
	users = 0;
	/* A node that is there and refused, by the device cgroup above all, is "unknown". */
	if (err == -SIM_ENOENT || err == -SIM_ENXIO || err == -SIM_ENODEV)
		return DRIVER_NOT_LOADED;
	return UNKNOWN;
}

EXPORT nvmlReturn nvmlInit(void) { return nvmlInit_v2(); }

EXPORT nvmlReturn nvmlInitWithFlags(unsigned flags)
{
	(void)flags;
	return nvmlInit_v2();
}

EXPORT nvmlReturn nvmlShutdown(void)
{
	if (!users)
		return UNINITIALIZED;
	users--;
	return SUCCESS;
}

static nvmlReturn text(char *to, unsigned size, const char *from)
{
	if (!users)
		return UNINITIALIZED;
	if (!to)
		return INVALID_ARGUMENT;
	return sim_copy(to, size, from) ? SUCCESS : INSUFFICIENT_SIZE;
}

EXPORT nvmlReturn nvmlSystemGetDriverVersion(char *v, unsigned size) { return text(v, size, table()->driver); }

EXPORT nvmlReturn nvmlSystemGetNVMLVersion(char *v, unsigned size)
{
	char s[80];
	unsigned n = 0, cuda = table()->cuda / 1000;
	if (cuda >= 10)
		s[n++] = (char)('0' + cuda / 10);
	s[n++] = (char)('0' + cuda % 10);
	s[n++] = '.';
	sim_copy(s + n, sizeof s - n, table()->driver);
	if (!v)
		return INVALID_ARGUMENT;
	return sim_copy(v, size, s) ? SUCCESS : INSUFFICIENT_SIZE;
}

/* These two work without nvmlInit in the real library too. */
EXPORT nvmlReturn nvmlSystemGetCudaDriverVersion(int *v)
{
	if (!v)
		return INVALID_ARGUMENT;
	*v = (int)table()->cuda;
	return SUCCESS;
}

EXPORT nvmlReturn nvmlSystemGetCudaDriverVersion_v2(int *v) { return nvmlSystemGetCudaDriverVersion(v); }

EXPORT nvmlReturn nvmlDeviceGetCount_v2(unsigned *n)
{
	if (!users)
		return UNINITIALIZED;
	if (!n)
		return INVALID_ARGUMENT;
	*n = (unsigned)seen.n;
	return SUCCESS;
}

EXPORT nvmlReturn nvmlDeviceGetCount(unsigned *n) { return nvmlDeviceGetCount_v2(n); }

EXPORT nvmlReturn nvmlDeviceGetHandleByIndex_v2(unsigned i, nvmlDevice *dev)
{
	if (!users)
		return UNINITIALIZED;
	if (!dev || i >= (unsigned)seen.n)
		return INVALID_ARGUMENT;
	*dev = seen.gpu[i];
	return SUCCESS;
}

EXPORT nvmlReturn nvmlDeviceGetHandleByIndex(unsigned i, nvmlDevice *dev)
{
	return nvmlDeviceGetHandleByIndex_v2(i, dev);
}

EXPORT nvmlReturn nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice *dev)
{
	if (!users)
		return UNINITIALIZED;
	if (!uuid || !dev)
		return INVALID_ARGUMENT;
	for (int i = 0; i < seen.n; i++)
		if (sim_same(seen.gpu[i]->uuid, uuid)) {
			*dev = seen.gpu[i];
			return SUCCESS;
		}
	return NOT_FOUND;
}

/* 00000000:3B:00.0 and 0000:3b:00.0 name the same card: compare from the end. */
static int same_bus(const char *a, const char *b)
{
	size_t n = sim_len(a), m = sim_len(b);
	while (n && m) {
		char x = a[--n], y = b[--m];
		if (x >= 'A' && x <= 'F')
			x = (char)(x + 32);
		if (y >= 'A' && y <= 'F')
			y = (char)(y + 32);
		if (x != y)
			return 0;
	}
	for (; n; n--)
		if (a[n - 1] != '0')
			return 0;
	for (; m; m--)
		if (b[m - 1] != '0')
			return 0;
	return 1;
}

EXPORT nvmlReturn nvmlDeviceGetHandleByPciBusId_v2(const char *id, nvmlDevice *dev)
{
	if (!users)
		return UNINITIALIZED;
	if (!id || !dev)
		return INVALID_ARGUMENT;
	for (int i = 0; i < seen.n; i++)
		if (same_bus(seen.gpu[i]->bus, id)) {
			*dev = seen.gpu[i];
			return SUCCESS;
		}
	return NOT_FOUND;
}

EXPORT nvmlReturn nvmlDeviceGetHandleByPciBusId(const char *id, nvmlDevice *dev)
{
	return nvmlDeviceGetHandleByPciBusId_v2(id, dev);
}

static nvmlReturn check(nvmlDevice dev, const void *out)
{
	if (!users)
		return UNINITIALIZED;
	if (!out)
		return INVALID_ARGUMENT;
	for (int i = 0; i < seen.n; i++)
		if (seen.gpu[i] == dev)
			return SUCCESS;
	return INVALID_ARGUMENT;
}

EXPORT nvmlReturn nvmlDeviceGetName(nvmlDevice dev, char *name, unsigned size)
{
	nvmlReturn r = check(dev, name);
	return r ? r : text(name, size, dev->name);
}

EXPORT nvmlReturn nvmlDeviceGetUUID(nvmlDevice dev, char *uuid, unsigned size)
{
	nvmlReturn r = check(dev, uuid);
	return r ? r : text(uuid, size, dev->uuid);
}

EXPORT nvmlReturn nvmlDeviceGetIndex(nvmlDevice dev, unsigned *index)
{
	nvmlReturn r = check(dev, index);
	for (int i = 0; !r && i < seen.n; i++)
		if (seen.gpu[i] == dev)
			*index = (unsigned)i;
	return r;
}

EXPORT nvmlReturn nvmlDeviceGetMinorNumber(nvmlDevice dev, unsigned *minor)
{
	nvmlReturn r = check(dev, minor);
	if (!r)
		*minor = dev->minor;
	return r;
}

struct memory {
	uint64_t total, free, used;
};

EXPORT nvmlReturn nvmlDeviceGetMemoryInfo(nvmlDevice dev, struct memory *m)
{
	nvmlReturn r = check(dev, m);
	if (!r) {
		m->total = m->free = dev->memory;
		m->used = 0;
	}
	return r;
}

struct memory_v2 {
	unsigned version;
	uint64_t total, reserved, free, used;
};

EXPORT nvmlReturn nvmlDeviceGetMemoryInfo_v2(nvmlDevice dev, struct memory_v2 *m)
{
	nvmlReturn r = check(dev, m);
	if (!r) {
		m->total = m->free = dev->memory;
		m->reserved = m->used = 0;
	}
	return r;
}

EXPORT nvmlReturn nvmlDeviceGetCudaComputeCapability(nvmlDevice dev, int *major, int *minor)
{
	nvmlReturn r = check(dev, major);
	if (r)
		return r;
	if (!minor)
		return INVALID_ARGUMENT;
	*major = (int)dev->major_cc;
	*minor = (int)dev->minor_cc;
	return SUCCESS;
}

struct pci {
	char legacy[16];
	unsigned domain, bus, device, id, subsystem;
	char bus_id[32];
};

static void upper(char *s)
{
	for (; *s; s++)
		if (*s >= 'a' && *s <= 'f')
			*s = (char)(*s - 32);
}

static void fill(nvmlDevice dev, struct pci *p, size_t size)
{
	struct pci all;
	memset(&all, 0, sizeof all);
	sim_copy(all.legacy, sizeof all.legacy, dev->bus);
	upper(all.legacy);
	all.domain = dev->domain;
	all.bus = dev->pcibus;
	all.device = dev->pcidev;
	all.id = dev->pciid;
	all.subsystem = dev->subsystem;
	memcpy(all.bus_id, "0000", 4); /* the longer form has eight digits of domain */
	sim_copy(all.bus_id + 4, sizeof all.bus_id - 4, dev->bus);
	upper(all.bus_id);
	memcpy(p, &all, size);
}

EXPORT nvmlReturn nvmlDeviceGetPciInfo_v3(nvmlDevice dev, struct pci *p)
{
	nvmlReturn r = check(dev, p);
	if (!r)
		fill(dev, p, sizeof *p);
	return r;
}

/* The older structures end before the long bus id and before the subsystem. */
EXPORT nvmlReturn nvmlDeviceGetPciInfo_v2(nvmlDevice dev, struct pci *p)
{
	nvmlReturn r = check(dev, p);
	if (!r)
		fill(dev, p, offsetof(struct pci, bus_id));
	return r;
}

EXPORT nvmlReturn nvmlDeviceGetPciInfo(nvmlDevice dev, struct pci *p)
{
	nvmlReturn r = check(dev, p);
	if (!r)
		fill(dev, p, offsetof(struct pci, subsystem));
	return r;
}

EXPORT nvmlReturn nvmlDeviceGetMigMode(nvmlDevice dev, unsigned *current, unsigned *pending)
{
	nvmlReturn r = check(dev, current);
	(void)pending;
	return r ? r : NOT_SUPPORTED;
}

EXPORT nvmlReturn nvmlDeviceGetMaxMigDeviceCount(nvmlDevice dev, unsigned *n)
{
	nvmlReturn r = check(dev, n);
	if (!r)
		*n = 0;
	return r;
}

EXPORT const char *nvmlErrorString(nvmlReturn code)
{
	switch (code) {
	case SUCCESS:
		return "Success";
	case UNINITIALIZED:
		return "Uninitialized";
	case INVALID_ARGUMENT:
		return "Invalid Argument";
	case NOT_SUPPORTED:
		return "Not Supported";
	case NO_PERMISSION:
		return "Insufficient Permissions";
	case NOT_FOUND:
		return "Not Found";
	case INSUFFICIENT_SIZE:
		return "Insufficient Size";
	case DRIVER_NOT_LOADED:
		return "Driver Not Loaded";
	}
	return "Unknown Error";
}
