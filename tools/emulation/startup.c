/* Bare-metal start-up for QEMU's Arm MPS boards, with semihosting for files, printf and exit. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

extern char __bss_start__, __bss_end__, STACK_TOP; /* from the linker script */
extern void initialise_monitor_handles(void);
int main(void);
void Reset_Handler(void);
void _init(void) {}
void _fini(void) {}

__attribute__((section(".vectors"), used)) void *const vectors[16] = {(void *)&STACK_TOP, (void *)&Reset_Handler};

void Reset_Handler(void) {
#if defined(__ARM_FP) && __ARM_FP
  *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: enable FPU (and MVE) */
  __asm__ volatile("dsb\n isb");
#endif
  memset(&__bss_start__, 0, (size_t)(&__bss_end__ - &__bss_start__));
  initialise_monitor_handles();
  exit(main());
}
