/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the simulated driver's libraries share: raw system calls (no C library,
 * so that they load under any), and the table of the host that Make patches.
 */
#ifndef SIM_H
#define SIM_H

#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define SIM_MAGIC "DAVIT SIMULATED HOST TABLE 1" /* 28 bytes and NULs up to 32 */
#define SIM_GPUS 64

/* The layout is little endian on both machines; table.go writes the same. */
struct sim_gpu {
	char name[96];
	char uuid[48];   /* GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx */
	uint8_t raw[16]; /* the same, binary */
	char bus[32];    /* 0000:3b:00.0 */
	char node[64];   /* /dev/nvidia0 */
	uint32_t minor;
	uint32_t domain, pcibus, pcidev;
	uint32_t pciid;     /* 0x233010de */
	uint32_t subsystem; /* 0x16c110de */
	uint32_t major_cc, minor_cc;
	uint64_t memory; /* bytes */
};

struct sim_table {
	char magic[32];
	uint32_t version; /* of this layout */
	uint32_t gpus;
	uint32_t cuda;  /* 12040 */
	uint32_t spare;
	char driver[64]; /* 550.120 */
	struct sim_gpu gpu[SIM_GPUS];
};

_Static_assert(sizeof(struct sim_gpu) == 296, "table.go knows this size");
_Static_assert(sizeof(struct sim_table) == 112 + SIM_GPUS * 296, "table.go knows this size");

#define SIM_DEFINE_TABLE                                                      \
	__attribute__((used, visibility("hidden"), section(".davit"),         \
		       aligned(16))) struct sim_table sim_table = {           \
		.magic = SIM_MAGIC, .version = 1, .gpus = 0, .cuda = 0,       \
		.driver = "0",                                                \
	};                                                                    \
	/* The compiler must not know what it patched in. */                  \
	static struct sim_table *table(void)                                  \
	{                                                                     \
		struct sim_table *t = &sim_table;                             \
		__asm__("" : "+r"(t));                                        \
		return t;                                                     \
	}

/* System calls. */

#if defined(__x86_64__)
static inline long sim_syscall(long n, long a, long b, long c, long d)
{
	long r;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return r;
}
#define SYS_WRITE 1
#define SYS_CLOSE 3
#define SYS_EXIT 231
#define SYS_OPENAT 257
#elif defined(__aarch64__)
static inline long sim_syscall(long n, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}
#define SYS_OPENAT 56
#define SYS_CLOSE 57
#define SYS_WRITE 64
#define SYS_EXIT 94
#else
#error "x86-64 and aarch64 only"
#endif

#define SIM_ENOENT 2
#define SIM_ENXIO 6
#define SIM_ENODEV 19

/* O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC: the same values on both machines. */
#define SIM_OPEN_FLAGS (02 | 04000 | 0400 | 02000000)

/* Opens a node and closes it again; 0 or a negative errno. */
static inline int sim_try(const char *path)
{
	long fd = sim_syscall(SYS_OPENAT, -100, (long)path, SIM_OPEN_FLAGS, 0);
	if (fd < 0)
		return (int)fd;
	sim_syscall(SYS_CLOSE, fd, 0, 0, 0);
	return 0;
}

/* The few string functions. The compiler may call memcpy and memset itself. */

__attribute__((visibility("hidden"), optimize("no-tree-loop-distribute-patterns"))) void *
memset(void *to, int c, size_t n)
{
	for (char *p = to; n--; p++)
		*p = (char)c;
	return to;
}

__attribute__((visibility("hidden"), optimize("no-tree-loop-distribute-patterns"))) void *
memcpy(void *to, const void *from, size_t n)
{
	char *p = to;
	for (const char *q = from; n--;)
		*p++ = *q++;
	return to;
}

static inline size_t sim_len(const char *s)
{
	size_t n = 0;
	while (s[n])
		n++;
	return n;
}

static inline int sim_same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

/* Copies with its NUL; 0 if it does not fit. */
static inline int sim_copy(char *to, size_t size, const char *from)
{
	size_t n = sim_len(from) + 1;
	if (n > size)
		return 0;
	memcpy(to, from, n);
	return 1;
}

/*
 * The cards whose nodes can be opened, as the real libraries find them: what a
 * container was not given is not there.
 */
struct sim_seen {
	int n;
	struct sim_gpu *gpu[SIM_GPUS];
};

static inline void sim_look(struct sim_table *t, struct sim_seen *seen)
{
	uint32_t n = t->gpus < SIM_GPUS ? t->gpus : SIM_GPUS;
	seen->n = 0;
	for (uint32_t i = 0; i < n; i++)
		if (sim_try(t->gpu[i].node) == 0)
			seen->gpu[seen->n++] = &t->gpu[i];
}

#endif
