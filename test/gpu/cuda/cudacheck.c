/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cudacheck list|compute: what a CUDA program sees of the driver, and whether
 * the GPUs really compute. It names libcuda as a needed library, so the image's
 * own loader decides which file it gets; the last lines tell which. It uses
 * functions of the C library that every glibc since 2.2.5 has, and its own
 * start, so that one program runs in all images with glibc.
 *
 * Output, one fact a line:
 *
 *	cuda VERSION                                13000
 *	devices N
 *	device I UUID MIB MiB NAME
 *	computed I ELEMENTS TARGET                  all numbers were right
 *	simulated I                                 the driver says that it cannot compute
 *	map INODE PATH                              driver libraries in this process
 *	cudacheck: ok
 *
 * and `cudacheck: WHAT returned CODE` with exit status 1 for what went wrong.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int CUresult;
typedef unsigned long long CUdeviceptr;

CUresult cuInit(unsigned);
CUresult cuDriverGetVersion(int *);
CUresult cuDeviceGetCount(int *);
CUresult cuDeviceGet(int *, int);
CUresult cuDeviceGetName(char *, int, int);
CUresult cuDeviceGetUuid(unsigned char *, int);
CUresult cuDeviceTotalMem_v2(size_t *, int);
CUresult cuCtxCreate_v2(void **, unsigned, int);
CUresult cuCtxDestroy_v2(void *);
CUresult cuCtxSynchronize(void);
CUresult cuModuleLoadDataEx(void **, const void *, unsigned, int *, void **);
CUresult cuModuleGetFunction(void **, void *, const char *);
CUresult cuMemAlloc_v2(CUdeviceptr *, size_t);
CUresult cuMemFree_v2(CUdeviceptr);
CUresult cuMemcpyHtoD_v2(CUdeviceptr, const void *, size_t);
CUresult cuMemcpyDtoH_v2(void *, CUdeviceptr, size_t);
CUresult cuLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);

#define N (1 << 20)
#define NOT_SUPPORTED 801

static float a[N], b[N], c[N];
static char ptx[4096], log_text[2048];

/* PTX for old GPUs runs on all newer ones; drivers drop the oldest targets one day. */
static const char *const target[][2] = {
	{ "6.0", "sm_50" }, { "7.0", "sm_70" }, { "8.0", "sm_80" },
};

static const char body[] =
	".address_size 64\n"
	".visible .entry vector_add(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u32 pn)\n"
	"{\n"
	"	.reg .pred %p<2>; .reg .b32 %r<6>; .reg .f32 %f<4>; .reg .b64 %d<8>;\n"
	"	ld.param.u64 %d1, [pa]; ld.param.u64 %d2, [pb]; ld.param.u64 %d3, [pc]; ld.param.u32 %r5, [pn];\n"
	"	mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x;\n"
	"	mad.lo.s32 %r4, %r1, %r2, %r3;\n"
	"	setp.ge.u32 %p1, %r4, %r5;\n"
	"	@%p1 bra done;\n"
	"	cvta.to.global.u64 %d1, %d1; cvta.to.global.u64 %d2, %d2; cvta.to.global.u64 %d3, %d3;\n"
	"	mul.wide.u32 %d4, %r4, 4;\n"
	"	add.s64 %d5, %d1, %d4; add.s64 %d6, %d2, %d4; add.s64 %d7, %d3, %d4;\n"
	"	ld.global.f32 %f1, [%d5]; ld.global.f32 %f2, [%d6];\n"
	"	add.f32 %f3, %f1, %f2;\n"
	"	st.global.f32 [%d7], %f3;\n"
	"done:	ret;\n"
	"}\n";

static void maps(void)
{
	static char line[4096];
	char seen[4096] = "";
	FILE *f = fopen("/proc/self/maps", "r");
	while (f && fgets(line, sizeof line, f)) {
		char *path = strchr(line, '/'), *p = line;
		if (!path || !(strstr(path, "libcuda") || strstr(path, "libnvidia")))
			continue;
		path[strcspn(path, "\n")] = 0;
		if (strstr(seen, path))
			continue;
		if (strlen(seen) + strlen(path) + 2 < sizeof seen)
			strcat(strcat(seen, path), "\n");
		for (int i = 0; i < 4; i++) /* the inode is the fifth word */
			p = strchr(p, ' ') + 1;
		printf("map %lu %s\n", strtoul(p, NULL, 10), path);
	}
	if (f)
		fclose(f);
}

static void must(const char *what, CUresult r)
{
	if (r == 0)
		return;
	printf("cudacheck: %s returned %d\n", what, r);
	if (log_text[0])
		printf("cudacheck: the driver's compiler says: %s\n", log_text);
	maps();
	exit(1);
}

static void compute(int i, int dev)
{
	void *ctx, *module, *fn;
	CUdeviceptr da, db, dc;
	unsigned n = N, bad = 0;
	size_t t;
	CUresult r = cuCtxCreate_v2(&ctx, 0, dev);
	if (r == NOT_SUPPORTED) {
		printf("simulated %d\n", i);
		return;
	}
	must("cuCtxCreate", r);
	for (t = 0; t < sizeof target / sizeof *target; t++) {
		int option[] = { 5, 6 }; /* CU_JIT_ERROR_LOG_BUFFER and its size */
		void *value[] = { log_text, (void *)(sizeof log_text - 1) };
		snprintf(ptx, sizeof ptx, ".version %s\n.target %s\n%s", target[t][0], target[t][1], body);
		if ((r = cuModuleLoadDataEx(&module, ptx, 2, option, value)) == 0)
			break;
		printf("note: PTX for %s: %d\n", target[t][1], r);
	}
	must("cuModuleLoadDataEx", r);
	log_text[0] = 0;
	must("cuModuleGetFunction", cuModuleGetFunction(&fn, module, "vector_add"));
	for (unsigned k = 0; k < N; k++) {
		a[k] = (float)(k % 1000);
		b[k] = (float)(k % 777) * 2;
		c[k] = -1;
	}
	must("cuMemAlloc", cuMemAlloc_v2(&da, sizeof a));
	must("cuMemAlloc", cuMemAlloc_v2(&db, sizeof b));
	must("cuMemAlloc", cuMemAlloc_v2(&dc, sizeof c));
	must("cuMemcpyHtoD", cuMemcpyHtoD_v2(da, a, sizeof a));
	must("cuMemcpyHtoD", cuMemcpyHtoD_v2(db, b, sizeof b));
	void *args[] = { &da, &db, &dc, &n };
	must("cuLaunchKernel", cuLaunchKernel(fn, N / 256, 1, 1, 256, 1, 1, 0, NULL, args, NULL));
	must("cuCtxSynchronize", cuCtxSynchronize());
	must("cuMemcpyDtoH", cuMemcpyDtoH_v2(c, dc, sizeof c));
	for (unsigned k = 0; k < N; k++)
		bad += c[k] != (float)(k % 1000) + (float)(k % 777) * 2;
	if (bad) {
		printf("cudacheck: %u of %d numbers are wrong on device %d\n", bad, N, i);
		exit(1);
	}
	cuMemFree_v2(da), cuMemFree_v2(db), cuMemFree_v2(dc);
	must("cuCtxDestroy", cuCtxDestroy_v2(ctx));
	printf("computed %d %d %s\n", i, N, target[t][1]);
}

static int run(int argc, char **argv, char **envp)
{
	int version = 0, count = 0;
	(void)envp;
	setvbuf(stdout, NULL, _IOLBF, 4096);
	must("cuInit", cuInit(0));
	must("cuDriverGetVersion", cuDriverGetVersion(&version));
	must("cuDeviceGetCount", cuDeviceGetCount(&count));
	printf("cuda %d\ndevices %d\n", version, count);
	for (int i = 0; i < count; i++) {
		char name[128] = "";
		unsigned char u[16];
		size_t bytes = 0;
		int dev;
		must("cuDeviceGet", cuDeviceGet(&dev, i));
		must("cuDeviceGetName", cuDeviceGetName(name, sizeof name, dev));
		must("cuDeviceGetUuid", cuDeviceGetUuid(u, dev));
		must("cuDeviceTotalMem", cuDeviceTotalMem_v2(&bytes, dev));
		printf("device %d GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x %lu MiB %s\n", i,
		       u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15],
		       (unsigned long)(bytes >> 20), name);
		if (argc > 1 && strcmp(argv[1], "compute") == 0)
			compute(i, dev);
	}
	maps();
	printf("cudacheck: ok\n");
	return 0;
}

/* The start of the program, with the function that also old C libraries have. */
int start_main(int (*)(int, char **, char **), int, char **, void (*)(void), void (*)(void), void (*)(void), void *);
__asm__(".symver start_main, __libc_start_main@GLIBC_2.2.5\n"
	".globl _start\n_start:\n"
	"	xorl %ebp, %ebp\n	movq %rdx, %rdi\n	movq %rsp, %rsi\n	andq $-16, %rsp\n	call begin\n	hlt\n");

__attribute__((used, noreturn)) void begin(void (*at_exit)(void), long *stack)
{
	start_main(run, (int)stack[0], (char **)(stack + 1), NULL, NULL, at_exit, stack);
	__builtin_unreachable();
}
