/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated nvidia-smi: a dynamic program, as the real one is, that needs
 * nothing but libnvidia-ml.so.1 and says what that says. -L, the table, and
 * --query-gpu for the common fields; the exit status is the real one's.
 */
#include "sim.h"

typedef struct sim_gpu *nvmlDevice;
int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlSystemGetDriverVersion(char *, unsigned);
int nvmlSystemGetCudaDriverVersion_v2(int *);
int nvmlDeviceGetCount_v2(unsigned *);
int nvmlDeviceGetHandleByIndex_v2(unsigned, nvmlDevice *);
int nvmlDeviceGetName(nvmlDevice, char *, unsigned);
int nvmlDeviceGetUUID(nvmlDevice, char *, unsigned);
int nvmlDeviceGetCudaComputeCapability(nvmlDevice, int *, int *);
struct memory { uint64_t total, free, used; };
int nvmlDeviceGetMemoryInfo(nvmlDevice, struct memory *);
struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };
int nvmlDeviceGetPciInfo_v3(nvmlDevice, struct pci *);
const char *nvmlErrorString(int);

enum { MIB = 1 << 20, DRIVER_NOT_LOADED = 9 };

/* Output, in one buffer that is flushed when full and at the end. */

static char buffer[4096];
static size_t used;
static int sink = 1;

static void flush(void)
{
	for (size_t at = 0; at < used;) {
		long n = sim_syscall(SYS_WRITE, sink, (long)(buffer + at), (long)(used - at), 0);
		if (n == -4) /* EINTR */
			continue;
		if (n <= 0)
			break;
		at += (size_t)n;
	}
	used = 0;
}

static void put(const char *s)
{
	for (; *s; s++) {
		if (used == sizeof buffer)
			flush();
		buffer[used++] = *s;
	}
}

/* Left-aligned in width characters; what is longer is cut with three dots. */
static void left(const char *s, size_t width)
{
	size_t n = sim_len(s);
	char c[2] = "";
	for (size_t i = 0; i < width; i++) {
		c[0] = i < n ? s[i] : ' ';
		if (n > width && i >= width - 3)
			c[0] = '.';
		put(c);
	}
}

static void right(const char *s, size_t width)
{
	for (size_t n = sim_len(s); n < width; n++)
		put(" ");
	put(s);
}

static char *number(char out[24], uint64_t v)
{
	char *p = out + 23;
	*p = 0;
	do
		*--p = (char)('0' + v % 10);
	while (v /= 10);
	return p;
}

static __attribute__((noreturn)) void leave(int status)
{
	flush();
	for (;;)
		sim_syscall(SYS_EXIT, status, 0, 0, 0);
}

static void cuda_version(char out[16])
{
	int v = 0;
	char n[24];
	nvmlSystemGetCudaDriverVersion_v2(&v);
	out[0] = 0;
	sim_copy(out, 8, number(n, (unsigned)v / 1000));
	size_t at = sim_len(out);
	out[at++] = '.';
	sim_copy(out + at, 8, number(n, (unsigned)v % 1000 / 10));
}

static void list(unsigned count)
{
	char s[96], n[24];
	nvmlDevice dev;
	for (unsigned i = 0; i < count; i++) {
		if (nvmlDeviceGetHandleByIndex_v2(i, &dev))
			continue;
		put("GPU ");
		put(number(n, i));
		put(": ");
		nvmlDeviceGetName(dev, s, sizeof s);
		put(s);
		put(" (UUID: ");
		nvmlDeviceGetUUID(dev, s, sizeof s);
		put(s);
		put(")\n");
	}
}

#define LINE "+-----------------------------------------------------------------------------------------+\n"
#define RULE "+-----------------------------------------+------------------------+----------------------+\n"

static void overview(unsigned count)
{
	char driver[96], cuda[16], s[96], n[24];
	nvmlSystemGetDriverVersion(driver, sizeof driver);
	cuda_version(cuda);
	put(LINE "| NVIDIA-SMI ");
	left(driver, 23);
	put("Driver Version: ");
	left(driver, 15);
	put("CUDA Version: ");
	left(cuda, 9);
	put("|\n" RULE);
	put("| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |\n"
	    "| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |\n"
	    "|                                         |                        |               MIG M. |\n"
	    "|=========================================+========================+======================|\n");
	for (unsigned i = 0; i < count; i++) {
		nvmlDevice dev;
		struct pci pci;
		struct memory mem;
		if (nvmlDeviceGetHandleByIndex_v2(i, &dev))
			continue;
		nvmlDeviceGetName(dev, s, sizeof s);
		nvmlDeviceGetPciInfo_v3(dev, &pci);
		nvmlDeviceGetMemoryInfo(dev, &mem);
		put("| ");
		right(number(n, i), 3);
		put("  ");
		left(s, 27);
		put("   Off  |   ");
		left(pci.bus_id, 16);
		put(" Off |                  N/A |\n| N/A   N/A    N/A            N/A /   N/A |");
		right(number(n, mem.used / MIB), 8);
		put("MiB /");
		right(number(n, mem.total / MIB), 7);
		put("MiB |      0%      Default |\n"
		    "|                                         |                        |                  N/A |\n" RULE);
	}
	put("\n" LINE
	    "| Processes:                                                                              |\n"
	    "|  GPU   GI   CI              PID   Type   Process name                        GPU Memory |\n"
	    "|        ID   ID                                                               Usage      |\n"
	    "|=========================================================================================|\n"
	    "|  No running processes found                                                             |\n" LINE
	    "| This host is simulated: its GPUs answer, they do not compute.                           |\n" LINE);
}

/* --query-gpu */

enum field { INDEX, NAME, UUID, BUS, TOTAL, FREE, USED, DRIVER, CAPABILITY, COUNT, FIELDS };

static const struct {
	const char *name, *header;
	enum field field;
} fields[] = {
	{ "index", "index", INDEX },
	{ "name", "name", NAME },
	{ "gpu_name", "gpu_name", NAME },
	{ "uuid", "uuid", UUID },
	{ "gpu_uuid", "gpu_uuid", UUID },
	{ "pci.bus_id", "pci.bus_id", BUS },
	{ "gpu_bus_id", "gpu_bus_id", BUS },
	{ "memory.total", "memory.total [MiB]", TOTAL },
	{ "memory.free", "memory.free [MiB]", FREE },
	{ "memory.used", "memory.used [MiB]", USED },
	{ "driver_version", "driver_version", DRIVER },
	{ "compute_cap", "compute_cap", CAPABILITY },
	{ "count", "count", COUNT },
};

enum { MOST = 32 };

static void mib(uint64_t bytes, int units)
{
	char n[24];
	put(number(n, bytes / MIB));
	if (units)
		put(" MiB");
}

static void value(nvmlDevice dev, unsigned index, unsigned count, enum field f, int units)
{
	char s[96], n[24];
	struct memory mem = { 0, 0, 0 };
	struct pci pci;
	int major = 0, minor = 0;
	s[0] = 0;
	switch (f) {
	case INDEX:
		put(number(n, index));
		break;
	case COUNT:
		put(number(n, count));
		break;
	case NAME:
		nvmlDeviceGetName(dev, s, sizeof s);
		put(s);
		break;
	case UUID:
		nvmlDeviceGetUUID(dev, s, sizeof s);
		put(s);
		break;
	case BUS:
		nvmlDeviceGetPciInfo_v3(dev, &pci);
		put(pci.bus_id);
		break;
	case DRIVER:
		nvmlSystemGetDriverVersion(s, sizeof s);
		put(s);
		break;
	case CAPABILITY:
		nvmlDeviceGetCudaComputeCapability(dev, &major, &minor);
		put(number(n, (unsigned)major));
		put(".");
		put(number(n, (unsigned)minor));
		break;
	default:
		nvmlDeviceGetMemoryInfo(dev, &mem);
		mib(f == TOTAL ? mem.total : f == FREE ? mem.free : mem.used, units);
	}
}

/* One word of a list; the rest, or NULL at the end. */
static const char *word(const char *list, char *out, size_t size)
{
	size_t n = 0;
	while (*list == ' ')
		list++;
	while (*list && *list != ',') {
		if (n + 1 < size)
			out[n++] = *list;
		list++;
	}
	while (n && out[n - 1] == ' ')
		n--;
	out[n] = 0;
	return *list ? list + 1 : NULL;
}

static __attribute__((noreturn)) void invalid(const char *a, const char *what, const char *b)
{
	put(a);
	put(what);
	put(b);
	leave(2);
}

static void query(unsigned count, const char *list, const char *format)
{
	int header = 1, units = 1, csv = 0, n = 0;
	unsigned want[MOST];
	char w[64];
	while (format) {
		format = word(format, w, sizeof w);
		if (sim_same(w, "csv"))
			csv = 1;
		else if (sim_same(w, "noheader"))
			header = 0;
		else if (sim_same(w, "nounits"))
			units = 0;
		else
			invalid("Unknown format option \"", w, "\".\n");
	}
	if (!csv)
		invalid("\"--format=\" ", "switch is missing or lacks csv", ". Please run 'nvidia-smi -h' for help.\n");
	while (list) {
		unsigned i = 0;
		list = word(list, w, sizeof w);
		while (i < sizeof fields / sizeof *fields && !sim_same(fields[i].name, w))
			i++;
		if (i == sizeof fields / sizeof *fields || n == MOST)
			invalid("Field \"", w, "\" is not a valid field to query.\n\n");
		want[n++] = i;
	}
	for (int k = 0; header && k < n; k++) {
		if (k)
			put(", ");
		put(fields[want[k]].header); /* nounits leaves the unit here, as in the real one */
	}
	if (header)
		put("\n");
	for (unsigned i = 0; i < count; i++) {
		nvmlDevice dev;
		if (nvmlDeviceGetHandleByIndex_v2(i, &dev))
			continue;
		for (int k = 0; k < n; k++) {
			if (k)
				put(", ");
			value(dev, i, count, fields[want[k]].field, units);
		}
		put("\n");
	}
}

static const char *after(const char *arg, const char *prefix)
{
	while (*prefix)
		if (*arg++ != *prefix++)
			return NULL;
	return arg;
}

static __attribute__((noreturn)) void smi(int argc, char **argv)
{
	int only_list = 0, err;
	const char *fieldlist = NULL, *format = NULL, *v;
	unsigned count = 0;
	for (int i = 1; i < argc; i++) {
		if (sim_same(argv[i], "-L") || sim_same(argv[i], "--list-gpus"))
			only_list = 1;
		else if ((v = after(argv[i], "--query-gpu=")))
			fieldlist = v;
		else if ((v = after(argv[i], "--format=")))
			format = v;
		else if (sim_same(argv[i], "-h") || sim_same(argv[i], "--help")) {
			put("NVIDIA System Management Interface, simulated\n\n"
			    "nvidia-smi [-L] [--query-gpu=FIELD,... --format=csv[,noheader][,nounits]]\n\n"
			    "fields:");
			for (unsigned f = 0; f < sizeof fields / sizeof *fields; f++) {
				put(" ");
				put(fields[f].name);
			}
			put("\n");
			leave(0);
		} else
			invalid("Invalid combination of input arguments: ", argv[i],
				" is not simulated. Please run 'nvidia-smi -h' for help.\n\n");
	}
	err = nvmlInit_v2();
	if (err == DRIVER_NOT_LOADED) {
		put("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
		    "Make sure that the latest NVIDIA driver is installed and running.\n\n");
		leave(9);
	}
	if (err) {
		put("Failed to initialize NVML: ");
		put(nvmlErrorString(err));
		put("\n");
		leave(255);
	}
	nvmlDeviceGetCount_v2(&count);
	if (!count) {
		put("No devices were found\n");
		leave(6);
	}
	if (only_list)
		list(count);
	else if (fieldlist)
		query(count, fieldlist, format);
	else
		overview(count);
	nvmlShutdown();
	leave(0);
}

__attribute__((used)) void sim_start(long *stack)
{
	smi((int)stack[0], (char **)(stack + 1));
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall sim_start\n\thlt\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tmov x0, sp\n\tbl sim_start\n\tbrk #0\n");
#endif
