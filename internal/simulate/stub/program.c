/* SPDX-License-Identifier: Apache-2.0 */
/* Any other program of the simulated driver: static, says what it is, succeeds. */
#include "sim.h"

__attribute__((used)) void sim_start(long *stack)
{
	const char *name = stack[0] > 0 ? ((char **)(stack + 1))[0] : "program";
	static const char rest[] = ": simulated, does nothing\n";
	sim_syscall(SYS_WRITE, 1, (long)name, (long)sim_len(name), 0);
	sim_syscall(SYS_WRITE, 1, (long)rest, sizeof rest - 1, 0);
	for (;;)
		sim_syscall(SYS_EXIT, 0, 0, 0, 0);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall sim_start\n\thlt\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tmov x0, sp\n\tbl sim_start\n\tbrk #0\n");
#endif
