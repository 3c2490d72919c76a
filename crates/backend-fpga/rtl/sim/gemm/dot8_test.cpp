// Both twins of dot8.sv against a plain dot product, in order and 12 cycles later.
#include <cstdio>
#include <cstdlib>
#include <deque>

#include "Vdot8_pair.h"

static uint64_t state = 88172645463325252ull;
static uint64_t next() {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

// Corners half of the time.
static uint64_t word(bool weights) {
  static const int corners[] = {127, -127, 0, 1, -1, -128};
  const unsigned kind = next() % 4;
  const int one = corners[next() % (weights ? 5 : 6)];
  uint64_t w = 0;
  for (int k = 0; k < 8; k++) {
    int digit = int(next() % 255) - 127;
    if (kind == 0) digit = one;
    if (kind == 1) digit = corners[next() % (weights ? 5 : 6)];
    w |= uint64_t(uint8_t(digit)) << 8 * k;
  }
  return w;
}

static int dot(uint64_t a, uint64_t w) {
  int sum = 0;
  for (int k = 0; k < 8; k++) sum += int(int8_t(a >> 8 * k)) * int(int8_t(w >> 8 * k));
  return sum;
}

int main() {
  Vdot8_pair top;
  std::deque<std::pair<int, int>> expected;
  const int vectors = 40000;
  top.eval();
  auto sign = [](unsigned x) { return int(x << 14) >> 14; };
  for (int i = 0; i < vectors; i++) {
    top.activations = word(false);
    top.weights1 = word(true);
    top.weights0 = word(true);
    expected.push_back({dot(top.activations, top.weights1), dot(top.activations, top.weights0)});
    top.clk = 1;
    top.eval();
    top.clk = 0;
    top.eval();
    if (expected.size() < 12) continue;
    const auto [one, zero] = expected.front();
    expected.pop_front();
    if (sign(top.structural1) != one || sign(top.structural0) != zero || sign(top.plain1) != one || sign(top.plain0) != zero) {
      std::printf("dot8: vector %d: %d %d, structural %d %d, plain %d %d\n", i, one, zero, sign(top.structural1),
                  sign(top.structural0), sign(top.plain1), sign(top.plain0));
      return 1;
    }
  }
  std::printf("dot8: %d vectors equal\n", vectors);
}
