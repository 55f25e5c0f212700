// The arithmetic of the engine: convolutions 3×3 that look products up, convolutions in float, and rounding to codes.
//
// A tensor is stored row by row, and in a row channel by channel, so that the rows of a band lie together. A channel's
// row takes `length` elements: one of the border, the pixels, and at least one of the border again. A row of border
// lies above and below the picture. `length` is a multiple of 16 plus 2: kernels read and write 16 pixels at once and
// go past the last pixel of a row without leaving it. Pointers to tensors point at the border's first element.
//
// Every operation is rounded as written here, in this order: all browsers compute the same picture, bit for bit.

#include <stdint.h>
#include <wasm_simd128.h>

#define EXPORT(name) __attribute__((export_name(#name))) name
#define HOT static __attribute__((noinline)) // engines replace a function by optimized code when it is called again

enum { OUTS = 4, PIXELS = 16, ENTRIES = 16, TAPS = 9, BORDERS = 16 };

// What becomes of the result: stored, rectified, or added to what is there.
enum { STORE, RECTIFY, ADD };

static inline void finish(float *out, v128_t value, int32_t mode) {
  if (mode == RECTIFY) value = wasm_f32x4_pmax(wasm_f32x4_const_splat(0), value);
  if (mode == ADD) value = wasm_f32x4_add(wasm_v128_load(out), value);
  wasm_v128_store(out, value);
}

// The elements right of the picture, which the last vectors of a row have overwritten, are border again. They reach to
// the next multiple of 16 pixels; `row` is the border's element before a multiple of 16.
static inline void clear_border(float *row, int32_t width) {
  for (int32_t x = width; x % PIXELS; x++) row[x + 1] = 0;
}

// ------------------------------------------------------------------------------------------------ look-up convolution
//
// One instruction looks sixteen indices up in a table of sixteen bytes. At 2 bits an index is a pair of codes, of two
// neighboring channels, and the table holds w₁·(c₁ − z) + w₂·(c₂ − z): one look-up stands for two multiplications at
// each of 16 pixels. At 3 and 4 bits an index is one code, and the table holds w·(c − z).
//
// z = 2^(bits−1) is a code in the middle (`center`). It keeps entries small, and the border holds it, so that a tap
// beyond the picture looks up zero. What z and the offset of the grid add to a sum is the same wherever the same taps
// lie inside the picture: a constant for each output and each of 16 kinds of border, the `correction`.
//
// No sum overflows. With weights |w| ≤ 2^bits − 1 and |c − z| ≤ 2^(bits−1) an entry is in magnitude at most
//     2 bits:  2 · 3 · 2 = 12        3 bits:  7 · 4 = 28        4 bits:  15 · 8 = 120
// so it fits into 8 bits, and `group` = ⌊127 / largest⌋ entries (at least 10, 4 and 1) can be summed there before they
// are widened to 16 bits. Those hold `span` = ⌊32767 / largest⌋ entries: 2730 and 1170 at 2 and 3 bits, more than the
// 288 and 576 of 64 channels, but 273 at 4 bits, where sums move on to 32 bits on the way. There they reach 576 · 120.

// Tables of all outputs, in blocks of OUTS: block × input plane × tap × output × 16. `weights` is outs × ins × 9.
// Returns the largest magnitude of an entry that codes can reach.
int32_t EXPORT(tables)(int8_t *table, const int8_t *weights, int32_t outs, int32_t ins, int32_t bits, int32_t center) {
  int32_t largest = 0, pairs = bits == 2, used = pairs ? ENTRIES : 1 << bits;
  for (int32_t block = 0; block < outs; block += OUTS)
    for (int32_t in = 0; in < ins; in += 1 + pairs)
      for (int32_t tap = 0; tap < TAPS; tap++)
        for (int32_t out = block; out < block + OUTS; out++) {
          const int8_t *w = weights + (out * ins + in) * TAPS + tap;
          for (int32_t index = 0; index < ENTRIES; index++) {
            int32_t entry = pairs ? w[0] * ((index & 3) - center) + w[TAPS] * ((index >> 2) - center)
                                  : index < used ? w[0] * (index - center) : 0;
            int32_t magnitude = entry < 0 ? -entry : entry;
            if (magnitude > largest) largest = magnitude;
            *table++ = entry;
          }
        }
  return largest;
}

// Sums of OUTS outputs at 16 pixels of one or two rows. `offsets` leads from the pixel above and left of the first one
// to the 16 indices of each entry. Everything that is constant where this is inlined is known to the compiler.
static inline __attribute__((always_inline)) void look_up(v128_t sums[2][OUTS][4], const uint8_t *const codes[2],
                                                          int32_t rows, const int32_t *offsets, const v128_t *table,
                                                          int32_t entries, int32_t group, int32_t span) {
  for (int32_t r = 0; r < rows; r++)
    for (int32_t o = 0; o < OUTS; o++)
      for (int32_t part = 0; part < 4; part++) sums[r][o][part] = wasm_i32x4_const_splat(0);
  for (int32_t entry = 0; entry < entries;) {
    int32_t last = entry + span < entries ? entry + span : entries;
    // Two neighboring bytes are one 16-bit number: the first, which must not be negative, plus 256 times the second. So
    // first bytes start at 128; `both` sums such numbers up, `second` their second bytes, and the first ones are what
    // is left. `both` may wrap, because what is left fits again.
    int32_t times = (last - entry + group - 1) / group;
    v128_t both[2][OUTS], second[2][OUTS];
    for (int32_t r = 0; r < rows; r++)
      for (int32_t o = 0; o < OUTS; o++)
        both[r][o] = wasm_i16x8_splat(-128 * times), second[r][o] = wasm_i16x8_const_splat(0);
    while (entry < last) {
      v128_t narrow[2][OUTS];
      for (int32_t r = 0; r < rows; r++)
        for (int32_t o = 0; o < OUTS; o++) narrow[r][o] = wasm_i16x8_const_splat(128);
      int32_t end = entry + group < last ? entry + group : last;
      do {
        for (int32_t r = 0; r < rows; r++) {
          v128_t indices = wasm_v128_load(codes[r] + offsets[entry]);
          for (int32_t o = 0; o < OUTS; o++) {
            narrow[r][o] = wasm_i8x16_add(narrow[r][o], wasm_i8x16_swizzle(table[o], indices));
          }
        }
        entry++, table += OUTS;
      } while (entry < end);
      for (int32_t r = 0; r < rows; r++)
        for (int32_t o = 0; o < OUTS; o++) {
          both[r][o] = wasm_i16x8_add(both[r][o], narrow[r][o]);
          second[r][o] = wasm_i16x8_add(second[r][o], wasm_i16x8_shr(narrow[r][o], 8));
        }
    }
    for (int32_t r = 0; r < rows; r++)
      for (int32_t o = 0; o < OUTS; o++) {
        v128_t odd = second[r][o], even = wasm_i16x8_sub(both[r][o], wasm_i16x8_shl(odd, 8));
        v128_t halves[2] = {wasm_i16x8_shuffle(even, odd, 0, 8, 1, 9, 2, 10, 3, 11),
                            wasm_i16x8_shuffle(even, odd, 4, 12, 5, 13, 6, 14, 7, 15)};
        for (int32_t part = 0; part < 4; part++) {
          v128_t half = halves[part / 2];
          v128_t four = part % 2 ? wasm_i32x4_extend_high_i16x8(half) : wasm_i32x4_extend_low_i16x8(half);
          sums[r][o][part] = wasm_i32x4_add(sums[r][o][part], four);
        }
      }
  }
}

// OUTS of `outs` outputs at rows y and y + 1: scale · (sum + correction) + bias.
HOT void look_up_rows(float *out, const uint8_t *codes, const int32_t *offsets, const v128_t *table, int32_t entries,
                      int32_t group, int32_t span, const int32_t *correction, float scale, const float *bias,
                      int32_t mode, int32_t y, int32_t width, int32_t height, int32_t length, int32_t planes,
                      int32_t outs) {
  int32_t rows = y + 1 < height ? 2 : 1;
  const uint8_t *upper = codes + y * planes * length, *lower = upper + (rows - 1) * planes * length;
  for (int32_t x = 0; x < width; x += PIXELS) {
    const uint8_t *first[2] = {upper + x, lower + x}, *second[2] = {lower + x, lower + x};
    v128_t sums[2][OUTS][4];
    // Two rows at once share each table, but where sums are widened often, only those of one row fit into registers.
    if (group >= 8) look_up(sums, first, 2, offsets, table, entries, group, span);
    else for (int32_t r = 0; r < rows; r++) {
      const uint8_t *const *from = r ? second : first;
      if (group >= 4) look_up(sums + r, from, 1, offsets, table, entries, 4, span);
      else look_up(sums + r, from, 1, offsets, table, entries, 1, span);
    }
    for (int32_t r = 0; r < rows; r++) {
      int32_t border = (y + r == 0) | (y + r == height - 1) << 1;
      for (int32_t o = 0; o < OUTS; o++) {
        const int32_t *constant = correction + o * BORDERS;
        int32_t *sum = (int32_t *)sums[r][o];
        int32_t left = x == 0, right = width - 1 - x;
        if (left) sum[0] += constant[border | 4 | (right == 0) << 3] - constant[border];
        if (right < PIXELS && !(left && right == 0)) sum[right] += constant[border | 8] - constant[border];
        float *to = out + ((y + r + 1) * outs + o) * length + x + 1;
        for (int32_t part = 0; part < 4; part++) {
          v128_t total = wasm_i32x4_add(sums[r][o][part], wasm_i32x4_splat(constant[border]));
          v128_t value = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(total), wasm_f32x4_splat(scale));
          finish(to + 4 * part, wasm_f32x4_add(value, wasm_f32x4_splat(bias[o])), mode);
        }
      }
    }
  }
  for (int32_t r = 0; r < rows; r++)
    for (int32_t o = 0; o < OUTS; o++) clear_border(out + ((y + r + 1) * outs + o) * length, width);
}

// Rows `first` to `last` of a block of OUTS outputs. `out` points at the block's first channel.
void EXPORT(look_up_convolution)(float *out, const uint8_t *codes, const int32_t *offsets, const v128_t *table,
                                 int32_t entries, int32_t group, int32_t span, const int32_t *correction, float scale,
                                 const float *bias, int32_t mode, int32_t first, int32_t last, int32_t width,
                                 int32_t height, int32_t length, int32_t planes, int32_t outs) {
  for (int32_t y = first; y < last; y += 2)
    look_up_rows(out, codes, offsets, table, entries, group, span, correction, scale, bias, mode, y, width, height,
                 length, planes, outs);
}

// ---------------------------------------------------------------------------------------------- convolution in float

// OUTS outputs at 8 pixels; `in` is the first tap of the first one, `weights` is ins × size × size × OUTS.
static inline __attribute__((always_inline)) void multiply(v128_t sums[OUTS][2], const float *in, const float *weights,
                                                           const float *bias, int32_t size, int32_t ins,
                                                           int32_t length) {
  for (int o = 0; o < OUTS; o++) sums[o][0] = sums[o][1] = wasm_f32x4_splat(bias[o]);
  for (int32_t i = 0; i < ins; i++, in += length)
    for (int32_t row = 0; row < size; row++)
      for (int32_t column = 0; column < size; column++, weights += OUTS) {
        const float *pixel = in + row * ins * length + column;
        v128_t first = wasm_v128_load(pixel), second = wasm_v128_load(pixel + 4);
        for (int o = 0; o < OUTS; o++) {
          v128_t weight = wasm_v128_load32_splat(weights + o);
          sums[o][0] = wasm_f32x4_add(sums[o][0], wasm_f32x4_mul(first, weight));
          sums[o][1] = wasm_f32x4_add(sums[o][1], wasm_f32x4_mul(second, weight));
        }
      }
}

HOT void multiply_row(float *out, const float *in, const float *weights, const float *bias, int32_t size, int32_t ins,
                      int32_t mode, int32_t columns, int32_t width, int32_t in_length, int32_t out_length) {
  for (int32_t x = 0; x < columns; x += 8) {
    v128_t sums[OUTS][2];
    if (size == 3) multiply(sums, in + x, weights, bias, 3, ins, in_length);
    else multiply(sums, in + x, weights, bias, 5, ins, in_length);
    for (int o = 0; o < OUTS; o++)
      for (int half = 0; half < 2; half++) finish(out + o * out_length + x + 1 + 4 * half, sums[o][half], mode);
  }
  if (columns == width)
    for (int o = 0; o < OUTS; o++) clear_border(out + o * out_length, width);
}

// A block of OUTS outputs out of `outs`, in a tile of `rows` × `columns`, small enough for the cache, of a convolution
// 3×3 or 5×5. `in` points at the first tap of the tile's first pixel, `out` at the block's first channel in the column
// before the tile. `width` is what lies right of the tile's left edge.
void EXPORT(convolution)(float *out, const float *in, const float *weights, const float *bias, int32_t size,
                         int32_t ins, int32_t outs, int32_t mode, int32_t rows, int32_t columns, int32_t width,
                         int32_t in_length, int32_t out_length) {
  for (int32_t y = 0; y < rows; y++)
    multiply_row(out + y * outs * out_length, in + y * ins * in_length, weights, bias, size, ins, mode, columns, width,
                 in_length, out_length);
}

// A convolution that comes after a convolution 3×3 and a pixel shuffle by 2, with nothing in between, as one convolution
// 5×5 before both. Each pixel becomes 2×2 by the shuffle; `phase` is one of the four, which has outputs of its own.
// `next` is outs × size × size × channels, `stage` is (channel, phase) × 9 × channels, and to `weights`, which is
// outs × 25 × channels, and `bias` is added. Where the stage's result is beyond the picture (`border` has bits for above,
// below, left and right), `next` sees zeros there.
void EXPORT(fold)(float *weights, float *bias, const float *next, const float *next_bias, const float *stage,
                  const float *stage_bias, int32_t outs, int32_t size, int32_t channels, int32_t phase,
                  int32_t border) {
  for (int32_t out = 0; out < outs; out++, weights += 25 * channels, bias++) {
    *bias += next_bias[out];
    for (int32_t y = -size / 2; y <= size / 2; y++)
      for (int32_t x = -size / 2; x <= size / 2; x++) {
        // Where the tap lies before the shuffle, and which of its 2×2 pixels it is.
        int32_t fine_y = phase / 2 + y, fine_x = phase % 2 + x, row = fine_y >> 1, column = fine_x >> 1;
        int32_t beyond = (row < 0) | (row > 0) << 1 | (column < 0) << 2 | (column > 0) << 3;
        for (int32_t channel = 0; channel < channels; channel++, next++) {
          if (beyond & border) continue;
          int32_t from = 4 * channel + 2 * (fine_y & 1) + (fine_x & 1);
          float factor = *next;
          *bias += factor * stage_bias[from];
          for (int32_t tap = 0; tap < TAPS; tap++) {
            float *to = weights + ((row + tap / 3 + 1) * 5 + column + tap % 3 + 1) * channels;
            const float *added = stage + (from * TAPS + tap) * channels;
            for (int32_t in = 0; in < channels; in += 4) {
              v128_t product = wasm_f32x4_mul(wasm_v128_load(added + in), wasm_f32x4_splat(factor));
              wasm_v128_store(to + in, wasm_f32x4_add(wasm_v128_load(to + in), product));
            }
          }
        }
      }
  }
}

// -------------------------------------------------------------------------------------------------- rounding to codes

// What rounding needs to know of a pair of bounds, each computed once, in float, as the package does.
typedef struct {
  float lower, upper, step, inverse_step, highest, offset;
} Grid;

// The level of each value as a whole number, ties to even: code + offset.
static inline v128_t level(v128_t value, const Grid *grid) {
  v128_t raised = wasm_f32x4_pmax(wasm_f32x4_splat(grid->lower), value);
  v128_t clipped = wasm_f32x4_pmin(wasm_f32x4_splat(grid->upper), raised);
  v128_t scaled = wasm_f32x4_mul(clipped, wasm_f32x4_splat(grid->inverse_step));
  return wasm_f32x4_pmin(wasm_f32x4_splat(grid->highest), wasm_f32x4_nearest(scaled));
}

// Four codes as 32-bit integers: 2²³ plus a small whole number has that number in its lowest bits.
static inline v128_t code(const float *value, const Grid *grid) {
  v128_t whole = wasm_f32x4_sub(level(wasm_v128_load(value), grid), wasm_f32x4_splat(grid->offset));
  return wasm_v128_and(wasm_f32x4_add(whole, wasm_f32x4_const_splat(8388608)), wasm_i32x4_const_splat(15));
}

static inline v128_t sixteen_codes(const float *values, const Grid *grid) {
  v128_t first = wasm_i16x8_narrow_i32x4(code(values, grid), code(values + 4, grid));
  v128_t second = wasm_i16x8_narrow_i32x4(code(values + 8, grid), code(values + 12, grid));
  return wasm_u8x16_narrow_i16x8(first, second);
}

static void fill(uint8_t *bytes, uint8_t value, int32_t count) {
  for (int32_t i = 0; i < count; i++) bytes[i] = value;
}

// Codes of `channels` channels, two to a plane at 2 bits, with the code `center` on the border.
void EXPORT(quantize)(uint8_t *codes, const float *values, const Grid *grid, int32_t bits, int32_t center,
                      int32_t channels, int32_t width, int32_t height, int32_t length) {
  int32_t pairs = bits == 2, planes = channels >> pairs, border = pairs ? center | center << 2 : center;
  fill(codes, border, planes * length);
  codes += planes * length, values += channels * length;
  for (int32_t row = 0; row < height * planes; row++, codes += length, values += length << pairs) {
    for (int32_t x = 1; x <= width; x += PIXELS) {
      v128_t indices = sixteen_codes(values + x, grid);
      if (pairs) indices = wasm_v128_or(indices, wasm_i8x16_shl(sixteen_codes(values + length + x, grid), 2));
      wasm_v128_store(codes + x, indices);
    }
    codes[0] = border;
    fill(codes + width + 1, border, length - width - 1);
  }
  fill(codes, border, planes * length);
}

// out = levels of `values`, or, with ADD, out + levels of `values`; `values` may be `out` itself.
void EXPORT(fake_quantize)(float *out, const float *values, const Grid *grid, int32_t mode, int32_t channels,
                           int32_t width, int32_t height, int32_t length) {
  for (int32_t row = channels; row < channels * (height + 1); row++) {
    for (int32_t i = row * length + 1; i <= row * length + width; i += 4)
      finish(out + i, wasm_f32x4_mul(level(wasm_v128_load(values + i), grid), wasm_f32x4_splat(grid->step)), mode);
    clear_border(out + row * length, width);
  }
}

// Each channel's mean over the picture, summed in double precision: what a gate looks at.
void EXPORT(means)(float *out, const float *values, int32_t channels, int32_t width, int32_t height, int32_t length) {
  for (int32_t channel = 0; channel < channels; channel++) {
    v128_t low = wasm_f64x2_const_splat(0), high = low;
    for (int32_t y = 1; y <= height; y++) {
      const float *row = values + (y * channels + channel) * length + 1;
      for (int32_t x = 0; x < width; x += 4) {
        v128_t four = wasm_v128_load(row + x); // beyond the picture lies the border, which is zero
        low = wasm_f64x2_add(low, wasm_f64x2_promote_low_f32x4(four));
        high = wasm_f64x2_add(high, wasm_f64x2_promote_low_f32x4(wasm_i32x4_shuffle(four, four, 2, 3, 2, 3)));
      }
    }
    v128_t sum = wasm_f64x2_add(low, high);
    double total = wasm_f64x2_extract_lane(sum, 0) + wasm_f64x2_extract_lane(sum, 1);
    out[channel] = (float)(total / ((double)width * height));
  }
}
