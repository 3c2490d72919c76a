// gemm_engine.sv against arith.rs's `requantise`, written anew here, with a memory that stalls at random and with an
// ideal one, whose cycles are held to the formula in gemm_engine.sv.
//
//   gemm_test          all cases
//   gemm_test quick    every seventh of them
//   gemm_test speed    how fast it simulates
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <deque>
#include <string>
#include <vector>

#include "Vgemm_engine.h"

using u8 = uint8_t;
using u32 = uint32_t;
using u64 = uint64_t;
using i64 = int64_t;

static u64 state = 88172645463325252ull;
static u64 next() {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}
static u64 below(u64 n) { return (next() >> 11) % n; }

// arith.rs
static float encode(i64 value, int exponent) {
  if (value == 0) return 0.0f;
  const u64 magnitude = value < 0 ? 0 - u64(value) : u64(value);
  const int length = 64 - __builtin_clzll(magnitude);
  if (length - 1 + exponent < -126) return 0.0f;
  u64 mantissa;
  if (length <= 24) {
    mantissa = magnitude << (24 - length);
  } else {
    const int shift = length - 24;
    const u64 half = u64(1) << (shift - 1), rest = magnitude & (2 * half - 1);
    mantissa = magnitude >> shift;
    mantissa += rest > half || (rest == half && (mantissa & 1));
  }
  const double y = std::ldexp(double(mantissa), exponent + length - 24);
  const float clamped = y > 3.4028234663852886e38 ? 3.4028234663852886e38f : float(y);
  return value < 0 ? -clamped : clamped;
}
static float flushed(float x) { return std::fabs(x) < 1.17549435e-38f ? 0.0f : x; }
static float add(float a, float b) {
  const float sum = flushed(a) + flushed(b);
  if (std::fabs(sum) < 1.17549435e-38f) return 0.0f;
  return std::isinf(sum) ? std::copysign(3.4028234663852886e38f, sum) : sum;
}
static float requantise(i64 sum, u32 row, u32 column, bool wide, bool has_bias, float bias) {
  const int shift = wide ? 8 : 0;
  if (wide) sum = (sum + 128) >> 8;
  const i64 factor = i64(row & 0xffff) * i64(column & 0xffff);
  const float y = encode(i64(u64(sum) * u64(factor)), int(int32_t(row) >> 16) + int(int32_t(column) >> 16) + shift);
  return has_bias ? add(y, bias) : y;
}

enum { TWO_DIGITS = 1, TWO_DIGIT_WEIGHTS = 2, BIAS = 4, ROWS = 8 };

struct Case {
  u32 rows, cols, depth, flags;
  // Digits: 0 random, 1 all 127, 2 127 times -127, 3 corners with -128 among the activations.
  int digits = 0;
  // Scales: 0 as they come, 1 zeros among them, 2 at the ends of the range of words.
  int scales = 0;
  // Rows of digits have gaps between them.
  bool gaps = false;
};

struct Job {
  std::vector<u8> memory;
  u32 desc[32] = {};
  std::vector<float> expected;
  u64 destination, pitch;
};

static u32 scale(int kind) {
  const u32 mantissa = 4096 + u32(below(12289));
  int exponent = int(below(40)) - 45;
  if (kind == 1 && below(4) == 0) return 0;
  if (kind == 2) exponent = int(below(160)) - 95;
  return u32(uint16_t(exponent)) << 16 | mantissa;
}

static Job prepare(const Case& c) {
  Job job;
  auto& m = job.memory;
  const u32 padded = (c.depth + 63) / 64 * 64;
  const int ap = c.flags & TWO_DIGITS ? 2 : 1, wp = c.flags & TWO_DIGIT_WEIGHTS ? 2 : 1;
  auto take = [&](u64 bytes, u64 align, u64 odd) {
    u64 at = (m.size() + 63) / 64 * 64 + odd * 4;
    (void)align;
    m.resize(at + bytes, 0xa5);
    return at;
  };
  auto digit = [&](bool weights) -> int {
    static const int corners[] = {127, -127, 0, 1, -1, -128};
    if (c.digits == 1) return 127;
    if (c.digits == 2) return weights ? -127 : 127;
    if (c.digits == 3) return corners[below(weights ? 5 : 6)];
    return int(below(255)) - 127;
  };
  const u32 apitch = padded + (c.gaps ? 128 : 0), wpitch = padded + (c.gaps ? 64 : 0);
  const u64 aplane = u64(apitch) * c.rows + (c.gaps ? 192 : 0), wplane = u64(wpitch) * c.cols;
  std::vector<int> a(u64(ap) * c.rows * padded), w(u64(wp) * c.cols * padded);
  const u64 at_a = take(aplane * ap, 64, 0);
  for (int p = 0; p < ap; p++)
    for (u32 r = 0; r < c.rows; r++)
      for (u32 k = 0; k < padded; k++) {
        const int d = k < c.depth ? digit(false) : 0;
        a[(u64(p) * c.rows + r) * padded + k] = d;
        m[at_a + p * aplane + u64(r) * apitch + k] = u8(d);
      }
  for (auto& d : w) d = 0;
  for (int p = 0; p < wp; p++)
    for (u32 r = 0; r < c.cols; r++)
      for (u32 k = 0; k < c.depth; k++) w[(u64(p) * c.cols + r) * padded + k] = digit(true);
  const u32 panels = (c.cols + 15) / 16;
  u64 at_w;
  if (c.flags & ROWS) {
    at_w = take(wplane * wp, 64, 0);
    for (int p = 0; p < wp; p++)
      for (u32 r = 0; r < c.cols; r++)
        for (u32 k = 0; k < padded; k++) m[at_w + p * wplane + u64(r) * wpitch + k] = u8(w[(u64(p) * c.cols + r) * padded + k]);
  } else {
    at_w = take(u64(panels) * 16 * padded * wp, 64, 0);
    for (u32 r = 0; r < panels * 16; r++)
      for (int p = 0; p < wp; p++)
        for (u32 k = 0; k < padded; k++)
          m[at_w + (u64(r / 16) * wp + p) * 16 * padded + (k / 8) * 128 + r % 16 * 8 + k % 8] =
              r < c.cols ? u8(w[(u64(p) * c.cols + r) * padded + k]) : 0;
  }
  auto put = [&](u64 at, u32 word) { std::memcpy(&m[at], &word, 4); };
  const u64 at_rs = take(4 * c.rows, 4, below(16)), at_cs = take(4 * c.cols, 4, below(16)), at_b = take(4 * c.cols, 4, below(16));
  std::vector<u32> rs(c.rows), cs(c.cols);
  std::vector<float> b(c.cols);
  for (u32 r = 0; r < c.rows; r++) put(at_rs + 4 * r, rs[r] = scale(c.scales));
  for (u32 j = 0; j < c.cols; j++) {
    put(at_cs + 4 * j, cs[j] = scale(c.scales));
    b[j] = std::ldexp(float(int(below(1 << 24)) - (1 << 23)), int(below(50)) - 60);
    if (c.scales == 2) b[j] = std::ldexp(float(int(below(1 << 24)) - (1 << 23)), int(below(253)) - 149);
    if (below(8) == 0) b[j] = below(2) ? 0.0f : -0.0f;
    if (below(16) == 0) b[j] = 1e-40f;
    std::memcpy(&m[at_b + 4 * j], &b[j], 4);
  }
  job.pitch = (u64(c.cols) * 4 + 63) / 64 * 64 + (c.gaps ? 64 : 0);
  job.destination = take(job.pitch * c.rows + 64, 64, 0);
  auto at = [&](const std::vector<int>& x, u32 rows, int p, u32 r) { return &x[(u64(p) * rows + r) * padded]; };
  auto dot = [&](int p, u32 r, int q, u32 j) {
    const int *x = at(a, c.rows, p, r), *y = at(w, c.cols, q, j);
    i64 sum = 0;
    for (u32 k = 0; k < c.depth; k++) sum += x[k] * y[k];
    return sum;
  };
  for (u32 r = 0; r < c.rows; r++)
    for (u32 j = 0; j < c.cols; j++) {
      i64 sum = 0;
      for (int p = 0; p < ap; p++)
        for (int q = 0; q < wp; q++) {
          i64 place = 1;
          for (int i = 0; i < ap - 1 - p + wp - 1 - q; i++) place *= 255;
          sum += place * dot(p, r, q, j);
        }
      job.expected.push_back(requantise(sum, rs[r], cs[j], wp == 2, c.flags & BIAS, b[j]));
    }
  u32* d = job.desc;
  auto put64 = [&](int i, u64 x) { d[i] = u32(x), d[i + 1] = u32(x >> 32); };
  d[0] = 1 | c.flags << 8, d[1] = c.rows, d[2] = c.cols, d[3] = c.depth;
  put64(4, at_a), put64(6, at_rs), put64(8, at_w), put64(10, at_cs), put64(12, job.destination), put64(14, at_b);
  d[16] = apitch, d[17] = wpitch, d[18] = u32(job.pitch), d[20] = u32(aplane), d[21] = u32(wplane);
  return job;
}

static const int LATENCY = 64, WRITE_LATENCY = 64;

// The cycles from `start` to `done`, as gemm_engine.sv says.
static u64 formula(const Case& c, const Job& job) {
  const u64 beats = (c.depth + 63) / 64, ap = c.flags & TWO_DIGITS ? 2 : 1, wp = c.flags & TWO_DIGIT_WEIGHTS ? 2 : 1;
  const u64 tiles = (c.rows + 9) / 10, panels = (c.cols + 15) / 16;
  auto words = [&](u32 address, u64 count) { return (address % 64 / 4 + count + 15) / 16; };
  auto load = [&](u64 panel) {
    const u64 n = std::min<u64>(16, c.cols - 16 * panel);
    return words(job.desc[10], n) + (c.flags & BIAS ? words(job.desc[14], n) : 0) + (c.flags & ROWS ? n : 16) * beats * wp;
  };
  const u64 compute = tiles * std::max<u64>(20, 8 * beats * ap * wp + (ap - 1) + (wp - 1));
  u64 at = LATENCY + 2 * c.rows * beats * ap + words(job.desc[6], c.rows) + load(0);
  if (panels > 1) at += (panels - 2) * std::max(load(0), compute) + std::max(load(panels - 1), compute);
  return at + compute + 2 * (c.rows - 10 * (tiles - 1)) + WRITE_LATENCY + 35;
}

struct Read {
  u64 address, at;
  u32 beats;
};

static u64 run(Vgemm_engine& top, Job& job, bool ideal) {
  std::deque<Read> reads;
  std::deque<u64> requests, writes;
  auto& m = job.memory;
  m.resize(m.size() + 128, 0x5a);
  auto clock = [&] {
    top.clk = 1;
    top.eval();
    top.clk = 0;
    top.eval();
  };
  top.rst = 1;
  top.rd_valid = top.start = 0;
  clock();
  top.rst = 0;
  for (int i = 0; i < 32; i++) top.desc[i] = job.desc[i];
  u64 cycle = 0;
  for (;; cycle++) {
    top.start = cycle == 0;
    top.rd_req_ready = ideal || (reads.size() < 4 && below(3) == 0);
    top.wr_req_ready = ideal || (requests.size() < 4 && below(5) == 0);
    top.wr_ready = ideal || below(12) == 0;
    // A valid beat stays until it is taken.
    const bool kept = top.rd_valid && !reads.empty() && reads.front().at == ~u64(0);
    top.rd_valid = kept || (!reads.empty() && reads.front().at <= cycle && (ideal || below(4)));
    if (top.rd_valid) {
      if (reads.front().address + 64 > m.size()) {
        std::printf("read outside of memory\n");
        std::exit(1);
      }
      if (!kept) std::memcpy(&top.rd_data[0], &m[reads.front().address], 64);
      if (!ideal) reads.front().at = ~u64(0);
    } else if (!ideal) {
      for (int i = 0; i < 16; i++) top.rd_data[i] = u32(next());
    }
    while (!writes.empty() && writes.front() <= cycle) writes.pop_front();
    top.wr_idle = writes.empty() && requests.empty();
    // No output depends on an input without a register between them, so these are this cycle's.
    if (top.wr_valid && top.wr_ready) {
      if (requests.empty()) {
        std::printf("write without a request\n");
        std::exit(1);
      }
      const u64 address = requests.front();
      requests.pop_front();
      if (address < job.destination || address + 64 > m.size() || address % 64) {
        std::printf("write outside of the result\n");
        std::exit(1);
      }
      for (int i = 0; i < 64; i++)
        if (top.wr_strb >> i & 1) m[address + i] = u8(top.wr_data[i / 4] >> 8 * (i % 4));
      writes.push_back(cycle + (ideal ? WRITE_LATENCY : 1 + below(100)));
      if (!ideal && writes.size() > 1) writes.back() = std::max(writes.back(), writes[writes.size() - 2]);
    }
    if (top.wr_req_valid && top.wr_req_ready) requests.push_back(top.wr_req_addr);
    if (top.rd_valid && top.rd_ready) {
      auto& r = reads.front();
      r.address += 64;
      r.at = 0;
      if (--r.beats == 0) reads.pop_front();
    }
    if (top.rd_req_valid && top.rd_req_ready) {
      if (top.rd_req_addr % 64 || top.rd_req_beats == 0) {
        std::printf("bad request\n");
        std::exit(1);
      }
      reads.push_back({top.rd_req_addr, cycle + (ideal ? LATENCY : below(100)), top.rd_req_beats});
    }
    if (top.done) break;
    clock();
    if (cycle > 400000000) {
      std::printf("hangs\n");
      std::exit(1);
    }
  }
  if (!reads.empty() || !requests.empty()) {
    std::printf("done too early\n");
    std::exit(1);
  }
  return cycle;
}

static u64 check(const Job& job, const Case& c) {
  u64 wrong = 0;
  for (u32 r = 0; r < c.rows; r++)
    for (u32 j = 0; j < c.cols; j++) {
      u32 got, want;
      std::memcpy(&got, &job.memory[job.destination + r * job.pitch + 4 * j], 4);
      std::memcpy(&want, &job.expected[u64(r) * c.cols + j], 4);
      if (got != want && wrong++ < 4) std::printf("  row %u col %u: %08x, expected %08x\n", r, j, got, want);
    }
  return wrong;
}

int main(int argc, char** argv) {
  Vgemm_engine top;
  top.eval();
  if (argc > 1 && std::string(argv[1]) == "speed") {
    for (const Case& c : {Case{50, 2048, 720, 0}, Case{50, 2048, 720, TWO_DIGITS}, Case{1000, 256, 768, 0}, Case{113, 113, 64, 11}}) {
      Job job = prepare(c);
      const clock_t start = clock();
      const u64 cycles = run(top, job, true);
      const double s = double(clock() - start) / CLOCKS_PER_SEC;
      const u64 wrong = check(job, c);
      std::printf("%ux%ux%u flags %u: %llu cycles, %.3f s, %.2f M cycles/s, %.0f M MAC/s useful, %.0f %% of MACs, %llu wrong\n", c.rows, c.depth,
                  c.cols, c.flags, (unsigned long long)cycles, s, cycles / s / 1e6, double(c.rows) * c.cols * c.depth / s / 1e6,
                  double(c.rows) * c.cols * c.depth * (c.flags & 1 ? 2 : 1) * (c.flags & 2 ? 2 : 1) / cycles / 12.8, (unsigned long long)wrong);
    }
    const clock_t start = clock();
    for (int i = 0; i < 1000000; i++) {
      top.clk = 1;
      top.eval();
      top.clk = 0;
      top.eval();
    }
    std::printf("idle: %.2f M cycles/s\n", CLOCKS_PER_SEC / double(clock() - start));
    return 0;
  }
  std::vector<Case> cases;
  const u32 precisions[] = {0, TWO_DIGITS, TWO_DIGIT_WEIGHTS, TWO_DIGITS | TWO_DIGIT_WEIGHTS};
  for (u32 precision : precisions) {
    for (u32 bias : {0u, u32(BIAS)})
      for (u32 layout : {0u, u32(ROWS)})
        for (u32 rows : {1u, 11u, 50u})
          for (u32 cols : {1u, 17u, 40u}) cases.push_back({rows, cols, 1 + u32(below(200)), precision | bias | layout, int(below(4)), int(below(3)), below(2) == 0});
    const u32 deepest = precision == 0 || precision == TWO_DIGITS ? 12288 : 8192;
    for (int digits : {1, 2}) cases.push_back({2, 17, deepest, precision | BIAS, digits});
  }
  for (int i = 0; i < 60; i++)
    cases.push_back({1 + u32(below(64)), 1 + u32(below(100)), 1 + u32(below(400)), u32(below(16)), int(below(4)), int(below(3)), below(2) == 0});
  cases.push_back({113, 113, 64, 11});
  cases.push_back({20480, 1, 64, 0});
  cases.push_back({50, 96, 720, BIAS});
  u64 failures = 0, words = 0;
  if (argc > 1 && std::string(argv[1]) == "quick") {
    std::vector<Case> some;
    for (size_t i = 0; i < cases.size(); i += 7) some.push_back(cases[i]);
    cases = some;
  }
  for (const Case& c : cases) {
    for (bool ideal : {true, false}) {
      Job job = prepare(c);
      const u64 cycles = run(top, job, ideal), wrong = check(job, c), want = formula(c, job);
      words += job.expected.size();
      if (wrong || (ideal && cycles != want)) {
        failures++;
        std::printf("FAILED %ux%ux%u flags %u digits %d scales %d gaps %d %s: %llu wrong, %llu cycles, expected %llu\n", c.rows, c.depth, c.cols,
                    c.flags, c.digits, c.scales, c.gaps, ideal ? "ideal" : "stalls", (unsigned long long)wrong, (unsigned long long)cycles,
                    (unsigned long long)want);
      }
    }
  }
  std::printf("gemm_engine: %zu cases, %llu words, %llu failures\n", cases.size(), (unsigned long long)words, (unsigned long long)failures);
  return failures != 0;
}
