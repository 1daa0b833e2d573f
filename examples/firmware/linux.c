/* The board where there is an operating system. */
#include <stdio.h>

#include "board.h"

void board_print(const char *text) { fputs(text, stdout); }
