/* The CPU path of steps with few tokens: what torch spends on starting an operation exceeds their arithmetic.
 *
 * Every function does what the torch reference of the same name in kernels/ does, on float32 activations.
 * A result depends on its own row alone, in a fixed order of additions, so it does not change with the
 * number of rows. Vectors are GCC's: eight floats, whatever the processor makes of them.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#define LANES 8
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));

static inline floats load(const float *from) {
    floats value;
    memcpy(&value, from, sizeof value);
    return value;
}

static inline void store(float *to, floats value) { memcpy(to, &value, sizeof value); }

static inline floats widen(const uint16_t *from) {
    halves value;
    memcpy(&value, from, sizeof value);
    words wide = __builtin_convertvector(value, words) << 16;
    return (floats)wide;
}

/* a * b + c, rounded in one way only: the compiler is told not to choose. */
static inline floats multiply_add(floats a, floats b, floats c) {
#ifdef __FMA__
    return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

static inline ints load_bytes(const uint8_t *from) {
#ifdef __AVX2__
    return (ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from));
#else
    return (ints){from[0], from[1], from[2], from[3], from[4], from[5], from[6], from[7]};
#endif
}

static inline float sum(floats v) {
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

static inline float widen_one(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static inline floats either(ints condition, floats yes, floats no) {
    return (floats)((condition & (ints)yes) | (~condition & (ints)no));
}

/* exp by 2^n * a polynomial on [-ln2/2, ln2/2] (Cephes' expf): within 2 units of the last place. */
static inline floats exp_of(floats x) {
    x = either(x < -87.0f, (floats){} - 87.0f, x);
    x = either(x > 88.0f, (floats){} + 88.0f, x);
    floats rounding = either(x < 0.0f, (floats){} - 0.5f, (floats){} + 0.5f);
    ints n = __builtin_convertvector(x * 1.44269504f + rounding, ints);
    floats whole = __builtin_convertvector(n, floats);
    x = x - whole * 0.693359375f;
    x = x + whole * 2.12194440e-4f;
    floats y = 1.9875691500e-4f * x + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * (x * x) + x + 1.0f;
    return (floats)((ints)y + (n << 23));
}

/* Weight rows between the one that is multiplied and the one that is fetched: rows are too short for the
 * processor to see where they lead. */
#define AHEAD 8

/* Dot products of ROWS weight rows with COLS activation rows. A weight row is bfloat16. */
#define BFLOAT16_TILE(ROWS, COLS)                                                                            \
    static void bfloat16_tile_##ROWS##_##COLS(                                                               \
        const void *weight, const float *x, const float *sums_of_x, float *y, long n, long k) {              \
        const uint16_t *rows = weight;                                                                       \
        floats sums[ROWS][COLS] = {};                                                                        \
        (void)sums_of_x;                                                                                     \
        long i = 0;                                                                                          \
        for (; i + LANES <= k; i += LANES) {                                                                 \
            floats w[ROWS];                                                                                  \
            for (int r = 0; r < ROWS; r++) {                                                                 \
                __builtin_prefetch(rows + (r + AHEAD) * k + i);                                              \
                w[r] = widen(rows + r * k + i);                                                              \
            }                                                                                                \
            for (int c = 0; c < COLS; c++) {                                                                 \
                floats v = load(x + c * k + i);                                                              \
                for (int r = 0; r < ROWS; r++) sums[r][c] = multiply_add(w[r], v, sums[r][c]);               \
            }                                                                                                \
        }                                                                                                    \
        for (int r = 0; r < ROWS; r++)                                                                       \
            for (int c = 0; c < COLS; c++) {                                                                 \
                float total = sum(sums[r][c]);                                                               \
                for (long j = i; j < k; j++) total += widen_one(rows[r * k + j]) * x[c * k + j];             \
                y[c * n + r] = total;                                                                        \
            }                                                                                                \
    }

/* A weight row is blocks of 32 numbers in 4 bits: number i is low(numbers[i]), number 16 + i is high(numbers[i]),
 * and stands for scale * number + minimum (GGUF's Q4_1). sums_of_x: [COLS, k / 32], of x over each block. */
#define BLOCK 32
struct block {
    float scale, minimum;
    uint8_t numbers[BLOCK / 2];
};

#define FOUR_BIT_TILE(ROWS, COLS)                                                                            \
    static void four_bit_tile_##ROWS##_##COLS(                                                               \
        const void *weight, const float *x, const float *sums_of_x, float *y, long n, long k) {              \
        long num_blocks = k / BLOCK;                                                                         \
        floats sums[ROWS][COLS] = {};                                                                        \
        float minima[ROWS][COLS] = {};                                                                       \
        for (long b = 0; b < num_blocks; b++)                                                                \
            for (int r = 0; r < ROWS; r++) {                                                                 \
                const struct block *block = (const struct block *)weight + r * num_blocks + b;               \
                __builtin_prefetch(block + AHEAD * num_blocks);                                              \
                ints first = load_bytes(block->numbers), second = load_bytes(block->numbers + LANES);        \
                floats w0 = __builtin_convertvector(first & 15, floats);                                     \
                floats w1 = __builtin_convertvector(second & 15, floats);                                    \
                floats w2 = __builtin_convertvector(first >> 4, floats);                                     \
                floats w3 = __builtin_convertvector(second >> 4, floats);                                    \
                for (int c = 0; c < COLS; c++) {                                                             \
                    const float *v = x + c * k + b * BLOCK;                                                  \
                    floats dot = multiply_add(w1, load(v + 8), w0 * load(v));                                \
                    dot = multiply_add(w3, load(v + 24), multiply_add(w2, load(v + 16), dot));               \
                    sums[r][c] = multiply_add((floats){} + block->scale, dot, sums[r][c]);                   \
                    minima[r][c] += block->minimum * sums_of_x[c * num_blocks + b];                          \
                }                                                                                            \
            }                                                                                                \
        for (int r = 0; r < ROWS; r++)                                                                       \
            for (int c = 0; c < COLS; c++) y[c * n + r] = sum(sums[r][c]) + minima[r][c];                    \
    }

#define ALL_TILES(TILE) TILE(1, 1) TILE(1, 2) TILE(1, 4) TILE(2, 4) TILE(4, 1) TILE(4, 2)
ALL_TILES(BFLOAT16_TILE)
ALL_TILES(FOUR_BIT_TILE)

typedef void tile(const void *weight, const float *x, const float *sums_of_x, float *y, long n, long k);
struct tiles {
    tile *one_by_one, *one_by_two, *one_by_four, *two_by_four, *four_by_one, *four_by_two;
};
#define TILES(KIND)                                                                                          \
    { KIND##_tile_1_1, KIND##_tile_1_2, KIND##_tile_1_4, KIND##_tile_2_4, KIND##_tile_4_1, KIND##_tile_4_2 }
static const struct tiles bfloat16_tiles = TILES(bfloat16), four_bit_tiles = TILES(four_bit);

/* Up to four rows of the weight times all rows of x. */
static void multiply_rows(
    const struct tiles *tiles, const char *weight, long row_bytes, const float *x, const float *sums_of_x,
    float *y, long n, long k, long m, int rows) {
    for (long c = 0, columns; c < m; c += columns) {
        columns = m - c >= 4 ? 4 : m - c >= 2 ? 2 : 1;
        int step = rows < 4 ? 1 : columns == 4 ? 2 : 4;
        tile *fitting = columns == 4   ? (step == 2 ? tiles->two_by_four : tiles->one_by_four)
                        : columns == 2 ? (step == 4 ? tiles->four_by_two : tiles->one_by_two)
                                       : (step == 4 ? tiles->four_by_one : tiles->one_by_one);
        for (int r = 0; r < rows; r += step)
            fitting(weight + r * row_bytes, x + c * k, sums_of_x + c * (k / BLOCK), y + c * n + r, n, k);
    }
}

static void multiply(
    const struct tiles *tiles, const void *weight, long row_bytes, const float *x, const float *sums_of_x,
    const float *bias, float *y, long n, long k, long m) {
#pragma omp parallel for schedule(static)
    for (long group = 0; group < (n + 3) / 4; group++) {
        long row = group * 4;
        int rows = n - row < 4 ? (int)(n - row) : 4;
        multiply_rows(tiles, (const char *)weight + row * row_bytes, row_bytes, x, sums_of_x, y + row, n, k, m, rows);
        if (bias)
            for (long c = 0; c < m; c++)
                for (int r = 0; r < rows; r++) y[c * n + row + r] += bias[row + r];
    }
}

/* y[m, n] = x[m, k] weight[n, k]ᵀ + bias[n]; the bias may be absent. */
void linear_bfloat16(
    const uint16_t *weight, const float *x, const float *bias, float *y, long n, long k, long m) {
    multiply(&bfloat16_tiles, weight, k * (long)sizeof *weight, x, x, bias, y, n, k, m);
}

/* The same for a weight of n * k / 32 blocks; sums_of_x is scratch for m * k / 32 numbers. */
void linear_four_bit(
    const struct block *weight, const float *x, const float *bias, float *y, float *sums_of_x, long n, long k,
    long m) {
    for (long i = 0; i < m * k / BLOCK; i++) {
        const float *v = x + i * BLOCK;
        sums_of_x[i] = sum((load(v) + load(v + 8)) + (load(v + 16) + load(v + 24)));
    }
    multiply(&four_bit_tiles, weight, k / BLOCK * (long)sizeof *weight, x, sums_of_x, bias, y, n, k, m);
}

/* What num_blocks blocks stand for. */
void widen_four_bit(const struct block *blocks, float *out, long num_blocks) {
#pragma omp parallel for schedule(static)
    for (long b = 0; b < num_blocks; b++)
        for (int i = 0; i < BLOCK / 2; i++) {
            uint8_t pair = blocks[b].numbers[i];
            out[b * BLOCK + i] = blocks[b].scale * (float)(pair & 15) + blocks[b].minimum;
            out[b * BLOCK + BLOCK / 2 + i] = blocks[b].scale * (float)(pair >> 4) + blocks[b].minimum;
        }
}

static void norm_row(const float *x, const float *weight, float epsilon, float *y, long d) {
    floats squares = {};
    long i = 0;
    for (; i + LANES <= d; i += LANES) squares = multiply_add(load(x + i), load(x + i), squares);
    float total = sum(squares);
    for (; i < d; i++) total += x[i] * x[i];
    float factor = 1.0f / sqrtf(total / d + epsilon);
    for (i = 0; i < d; i++) y[i] = x[i] * factor * weight[i];
}

/* y[m, d] = rms_norm(x[m, d]). */
void rms_norm(const float *x, const float *weight, float epsilon, float *y, long m, long d) {
    for (long row = 0; row < m; row++) norm_row(x + row * d, weight, epsilon, y + row * d, d);
}

/* residual[m, d] += x[m, d], then y = rms_norm(residual). */
void add_rms_norm(
    const float *x, const float *residual, const float *weight, float epsilon, float *y, float *new_residual,
    long m, long d) {
    for (long i = 0; i < m * d; i++) new_residual[i] = x[i] + residual[i];
    rms_norm(new_residual, weight, epsilon, y, m, d);
}

/* y[m, d] = silu(gate_up[m, :d]) * gate_up[m, d:]. */
void silu_mul(const float *gate_up, float *y, long m, long d) {
    for (long row = 0; row < m; row++, gate_up += 2 * d, y += d) {
        long i = 0;
        for (; i + LANES <= d; i += LANES) {
            floats gate = load(gate_up + i);
            store(y + i, gate / (1.0f + exp_of(-gate)) * load(gate_up + d + i));
        }
        for (; i < d; i++) y[i] = gate_up[i] / (1.0f + expf(-gate_up[i])) * gate_up[d + i];
    }
}

static void turn(float *x, const float *cos_sin, long half) {
    for (long i = 0; i < half; i++) {
        float a = x[i], b = x[half + i];
        x[i] = a * cos_sin[i] - b * cos_sin[half + i];
        x[half + i] = b * cos_sin[i] + a * cos_sin[half + i];
    }
}

/* See rotary_write.py. A token's q, k and v stand at q + token * stride and so on; the norms may be absent. */
void rotary_write(
    float *q, float *k, const float *v, const float *q_norm, const float *k_norm, float epsilon,
    const int64_t *positions, const float *cos_sin, float *k_cache, float *v_cache, const int64_t *slots,
    long num_tokens, long stride, long num_heads, long num_kv_heads, long head_dim, long block_size) {
    for (long token = 0; token < num_tokens; token++) {
        const float *angles = cos_sin + positions[token] * head_dim;
        for (long head = 0; head < num_heads; head++) {
            float *x = q + token * stride + head * head_dim;
            if (q_norm) norm_row(x, q_norm, epsilon, x, head_dim);
            turn(x, angles, head_dim / 2);
        }
        int64_t slot = slots[token];
        for (long head = 0; head < num_kv_heads; head++) {
            float *x = k + token * stride + head * head_dim;
            if (k_norm) norm_row(x, k_norm, epsilon, x, head_dim);
            turn(x, angles, head_dim / 2);
            if (slot < 0) continue;
            int64_t row = (slot / block_size * num_kv_heads + head) * block_size + slot % block_size;
            memcpy(k_cache + row * head_dim, x, head_dim * sizeof(float));
            memcpy(v_cache + row * head_dim, v + token * stride + head * head_dim, head_dim * sizeof(float));
        }
    }
}

/* Attention of one query head over its context; scores is scratch for the context. */
static void attend(
    const float *q, const float *k_cache, const float *v_cache, const int32_t *table, long context_len,
    float scale, float *scores, float *out, long kv_head, long num_kv_heads, long head_dim, long block_size) {
    float top = -INFINITY;
    for (long token = 0; token < context_len; token++) {
        int64_t row = ((int64_t)table[token / block_size] * num_kv_heads + kv_head) * block_size + token % block_size;
        const float *key = k_cache + row * head_dim;
        floats products = {};
        long i = 0;
        for (; i + LANES <= head_dim; i += LANES) products = multiply_add(load(q + i), load(key + i), products);
        float score = sum(products);
        for (; i < head_dim; i++) score += q[i] * key[i];
        scores[token] = score * scale;
        top = scores[token] > top ? scores[token] : top;
    }
    long token = 0;
    floats weights = {};
    for (; token + LANES <= context_len; token += LANES) {
        floats weight = exp_of(load(scores + token) - top);
        store(scores + token, weight);
        weights += weight;
    }
    float total = sum(weights);
    for (; token < context_len; token++) total += scores[token] = expf(scores[token] - top);
    memset(out, 0, head_dim * sizeof(float));
    for (token = 0; token < context_len; token++) {
        int64_t row = ((int64_t)table[token / block_size] * num_kv_heads + kv_head) * block_size + token % block_size;
        const float *value = v_cache + row * head_dim;
        float weight = scores[token] / total;
        for (long i = 0; i < head_dim; i++) out[i] += weight * value[i];
    }
}

/* See decode_attention.py. q: token t's heads at q + t * q_stride; scores: [num_seqs * num_heads, max_context]. */
void decode_attention(
    const float *q, const float *k_cache, const float *v_cache, const int32_t *context_lens,
    const int32_t *block_tables, float scale, float *scores, float *out, long num_seqs, long q_stride,
    long table_stride, long max_context, long num_heads, long num_kv_heads, long head_dim, long block_size) {
#pragma omp parallel for schedule(dynamic)
    for (long item = 0; item < num_seqs * num_heads; item++) {
        long seq = item / num_heads, head = item % num_heads;
        attend(
            q + seq * q_stride + head * head_dim, k_cache, v_cache, block_tables + seq * table_stride,
            context_lens[seq], scale, scores + item * max_context, out + item * head_dim,
            head / (num_heads / num_kv_heads), num_kv_heads, head_dim, block_size);
    }
}
