/* Start-up of a Cortex-M and, through semihosting, output and exit; without any library. */
#include <stdint.h>

#include "board.h"

enum { SYS_WRITE0 = 0x04, SYS_EXIT_EXTENDED = 0x20, APPLICATION_EXIT = 0x20026 };

/* From the linker script. */
extern uint32_t data_source, data_begin, data_end, bss_begin, bss_end, stack_top;

int main(void);
void reset(void);

/* Exceptions of a program that is right do not happen: it stops where a debugger finds it. */
static void halt(void) {
  for (;;) {
  }
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    &stack_top, reset, halt, halt, halt, halt, halt, 0, 0, 0, 0, halt, halt, 0, halt, halt,
};

static int semihosting(int operation, const void *argument) {
  register int r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

void board_print(const char *text) { semihosting(SYS_WRITE0, text); }

void reset(void) {
#if defined(__ARM_FP) && __ARM_FP
  *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: the FPU is off after reset */
  __asm__ volatile("dsb\n isb");
#endif
  const uint32_t *from = &data_source;
  for (volatile uint32_t *to = &data_begin; to < &data_end;) *to++ = *from++;
  for (volatile uint32_t *to = &bss_begin; to < &bss_end;) *to++ = 0;
  const uint32_t status[2] = {APPLICATION_EXIT, (uint32_t)main()};
  semihosting(SYS_EXIT_EXTENDED, status);
  halt();
}
