/* Recognizes one handwritten digit, prints its class, and PASS where it is the right one. */
#include <stdint.h>
#include <string.h>

#include "board.h"
#include "digits.h"

/* A seven of the test set of scikit-learn's digits, which the model was not trained on: 8 x 8 pixels from 0 to 16. */
static const uint8_t image[DIGITS_INPUT_0_SIZE] = {
    0, 0, 2,  13, 16, 9,  0, 0, /* */
    0, 0, 12, 12, 7,  16, 3, 0, /* */
    0, 1, 14, 3,  0,  16, 4, 0, /* */
    0, 0, 0,  4,  10, 16, 6, 0, /* */
    0, 0, 0,  13, 16, 16, 9, 0, /* */
    0, 0, 0,  5,  13, 1,  0, 0, /* */
    0, 0, 0,  11, 9,  0,  0, 0, /* */
    0, 0, 1,  16, 4,  0,  0, 0,
};
enum { EXPECTED = 7 };

static _Alignas(DIGITS_ARENA_ALIGN) unsigned char arena[DIGITS_ARENA_BYTES];

/* The model's inputs are real = (q - ZERO_POINT) * SCALE, here from 0 to 1. */
static int8_t quantized(uint8_t pixel) {
  const float q = (float)pixel / 16.0f / DIGITS_INPUT_0_SCALE + (float)DIGITS_INPUT_0_ZERO_POINT;
  return (int8_t)(q < 0.0f ? q - 0.5f : q + 0.5f);
}

int main(void) {
  int8_t input[DIGITS_INPUT_0_SIZE];
  for (unsigned i = 0; i < DIGITS_INPUT_0_SIZE; i++) input[i] = quantized(image[i]);
  memcpy(digits_input(arena, 0), input, sizeof input);
  if (digits_run(arena) != DIGITS_OK) {
    board_print("FAIL: the model did not run\n");
    return 1;
  }
  const int8_t *scores = digits_output(arena, 0);
  unsigned best = 0;
  for (unsigned i = 1; i < DIGITS_OUTPUT_0_SIZE; i++)
    if (scores[i] > scores[best]) best = i;
  char text[] = "digit: ?\n";
  text[7] = (char)('0' + best);
  board_print(text);
  board_print(best == EXPECTED ? "PASS\n" : "FAIL: it is a 7\n");
  return best == EXPECTED ? 0 : 1;
}
