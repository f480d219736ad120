// One decoding step of GPT-2 on a CPU: the last tokens of n sequences in, the logits of their next ones out. inference/native.py
// compiles and calls it.
//
// A step reads every weight once, and that is what its time goes into; with a small model it is the pauses between operations.
// So the whole step is one call, weights are read in the order of memory, and narrow ones are widened in registers. All that
// is between the weights is float32: inputs, sums, keys and values.
//
// The numbers of a sequence do not depend on how many sequences or threads there are: a sum is made by one thread, in the same
// lanes and order each time. The compiler must not reorder sums, so it gets no -ffast-math.
//
// Letters: n sequences, C = n_embd, nh = n_head, hd = C / nh, S keys, V = vocab_size; a product has K inputs and N outputs.
// "Padded" is a number of columns rounded up to a multiple of STEP; what is behind the columns is zero.
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __x86_64__
#include <immintrin.h>
#endif

typedef uint16_t bf16;
constexpr int STEP = 32;  // weights of a row that are read at once, in as many registers as that takes
#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int TILE_ROWS = 2, TILE_OUTPUTS = 6;  // inputs and outputs whose sums fit into the registers together
#elif defined(__AVX2__)
constexpr int LANES = 8;
constexpr int TILE_ROWS = 2, TILE_OUTPUTS = 1;
#else  // other machines: the compiler divides the lanes among its registers
constexpr int LANES = 16;
constexpr int TILE_ROWS = 2, TILE_OUTPUTS = 1;
#endif
constexpr int REGISTERS = STEP / LANES;
typedef float Lanes __attribute__((vector_size(4 * LANES)));  // numbers that are computed with together
typedef int32_t IntLanes __attribute__((vector_size(4 * LANES)));
constexpr int SPINS = 2000;  // of a thread that waits, before it offers its core to others

// ---- what native.py fills in --------------------------------------------------------------------------

enum Kind : int64_t { FLOAT32, BFLOAT16, INT8, INT4 };

struct Product {           // y = x Wᵀ + bias
    const void *weight;    // (N, K), K padded
    const void *scales;    // INT8: (N,) float32, by which a row is multiplied; INT4: (N, K / 32) pairs of bf16, see Reader<INT4>
    const float *bias;     // (N,), or null
    int64_t N, K;
};

struct Norm {
    const float *weight, *bias;  // (C padded,)
};

struct Layer {
    Norm ln_1, ln_2;
    Product qkv, proj, fc, fc_proj;
    float *keys, *values;  // (slots, nh, block_size, hd)
};

struct Model {
    int64_t n_layer, n_head, C, block_size, n_slots;
    Kind kind, embedding_kind;  // of the products; of wte and wpe: FLOAT32 or BFLOAT16
    const void *wte, *wpe;      // (V, C), (block_size, C)
    const Layer *layers;
    Norm ln_f;
    Product head;
    const float *common;  // (C padded,), what is to be added to every row of the head, or null
};

// ---- numbers ------------------------------------------------------------------------------------------

static inline int64_t padded(int64_t columns) { return (columns + STEP - 1) / STEP * STEP; }

static inline Lanes lanes(const float *p) {
    Lanes a;
    memcpy(&a, p, sizeof a);
    return a;
}

static inline void store(float *p, Lanes a) { memcpy(p, &a, sizeof a); }

static inline float widen(float number) { return number; }
static inline float widen(bf16 number) {
    uint32_t bits = uint32_t(number) << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

#if defined(__AVX512F__)
static inline Lanes lanes(const bf16 *p) {
    return (Lanes)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
}
static inline Lanes lanes(const int8_t *p) {
    return (Lanes)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
static inline void nibbles(const uint8_t *p, Lanes &low, Lanes &high) {
    __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
    low = (Lanes)_mm512_cvtepi32_ps(_mm512_and_si512(bytes, _mm512_set1_epi32(15)));
    high = (Lanes)_mm512_cvtepi32_ps(_mm512_srli_epi32(bytes, 4));
}
#elif defined(__AVX2__)
static inline Lanes lanes(const bf16 *p) {
    return (Lanes)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
}
static inline Lanes lanes(const int8_t *p) {
    return (Lanes)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
static inline void nibbles(const uint8_t *p, Lanes &low, Lanes &high) {
    __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
    low = (Lanes)_mm256_cvtepi32_ps(_mm256_and_si256(bytes, _mm256_set1_epi32(15)));
    high = (Lanes)_mm256_cvtepi32_ps(_mm256_srli_epi32(bytes, 4));
}
#else
static inline float widen(int8_t number) { return number; }
template <class T> static inline Lanes lanes(const T *p) {
    Lanes a;
    for (int i = 0; i < LANES; i++) a[i] = widen(p[i]);
    return a;
}
static inline void nibbles(const uint8_t *p, Lanes &low, Lanes &high) {
    for (int i = 0; i < LANES; i++) low[i] = p[i] & 15, high[i] = p[i] >> 4;
}
#endif

static inline float sum(Lanes a) {
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)a);
#else
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) a[i] += a[i + half];
    return a[0];
#endif
}

// e to each lane, within 2 units of the last place: 2^whole times a polynomial of the rest (Taylor's, of degree 7). Below -87 it
// is e^-87 = 1.6e-38.
static inline Lanes exp_of(Lanes x) {
    const Lanes least = Lanes{} - 87.0f, most = Lanes{} + 88.0f;
    x = x < least ? least : x;
    x = x > most ? most : x;
    const float rounding = 12582912.0f;  // 1.5 · 2^23: whole numbers are what is left of a sum with it
    Lanes shifted = x * 1.44269504f + rounding, whole = shifted - rounding;
    Lanes rest = x - whole * 0.693359375f + whole * 2.12194440e-4f;  // less whole · log 2, which is in two parts
    Lanes power = rest * (1 / 5040.0f) + 1 / 720.0f;
    const float coefficients[] = {1 / 120.0f, 1 / 24.0f, 1 / 6.0f, 0.5f, 1.0f, 1.0f};
    for (float coefficient : coefficients) power = power * rest + coefficient;
    return (Lanes)((IntLanes)power + ((IntLanes)shifted << 23));  // the last bits of `shifted` are `whole`: into the exponent
}

// x · (1 + tanh u) / 2 with u = sqrt(2 / pi) · (x + 0.044715 x³), GPT-2's GELU, by tanh u = 1 - 2 / (1 + e^2u)
static inline Lanes gelu(Lanes x) {
    Lanes twice_u = x * (x * x * 0.044715f + 1.0f) * 1.5957691216f;
    return x - x / (exp_of(twice_u) + 1.0f);
}

// ---- products -----------------------------------------------------------------------------------------

// Reads STEP weights of a row.
template <class Number> struct Row {
    const Number *row;
    Row(const Product &p, int64_t j) : row((const Number *)p.weight + j * p.K) {}
    void read(int64_t k, Lanes w[REGISTERS]) const {
        for (int u = 0; u < REGISTERS; u++) w[u] = lanes(row + k + u * LANES);
    }
};
template <Kind kind> struct Reader;
template <> struct Reader<FLOAT32> : Row<float> { using Row::Row; };
template <> struct Reader<BFLOAT16> : Row<bf16> { using Row::Row; };
template <> struct Reader<INT8> : Row<int8_t> { using Row::Row; };

// A byte holds two numbers from 0 to 15, of which the first belongs to the first 16 of the 32 weights. A weight is number · scale
// + offset; the lower half of a pair is the scale, as bf16, and the upper half the offset.
template <> struct Reader<INT4> {
    const uint8_t *row;
    const uint32_t *pairs;
    Reader(const Product &p, int64_t j)
        : row((const uint8_t *)p.weight + j * p.K / 2), pairs((const uint32_t *)p.scales + j * p.K / STEP) {}
    void read(int64_t k, Lanes w[REGISTERS]) const {
        IntLanes pair = IntLanes{} + (int32_t)pairs[k / STEP];
        Lanes scale = (Lanes)(pair << 16), offset = (Lanes)(pair & (int32_t)0xffff0000);
        for (int u = 0; u < REGISTERS / 2; u++) {
            Lanes &low = w[u], &high = w[u + REGISTERS / 2];
            nibbles(row + k / 2 + u * LANES, low, high);
            low = low * scale + offset, high = high * scale + offset;
        }
    }
};

// y[i * R + r] = the product of weight row j + i with input r
template <Kind kind, int J, int R> static inline void tile(const Product &p, int64_t j, const float *x, float *y) {
    Lanes total[J][R][REGISTERS] = {};
    for (int64_t k = 0; k < p.K; k += STEP) {
        for (int i = 0; i < J; i++) {
            Lanes w[REGISTERS];
            Reader<kind>(p, j + i).read(k, w);
            for (int r = 0; r < R; r++)
                for (int u = 0; u < REGISTERS; u++) total[i][r][u] += w[u] * lanes(x + r * p.K + k + u * LANES);
        }
    }
    for (int i = 0; i < J; i++) {
        float scale = kind == INT8 ? ((const float *)p.scales)[j + i] : 1.0f, bias = p.bias ? p.bias[j + i] : 0.0f;
        for (int r = 0; r < R; r++) {
            for (int u = 1; u < REGISTERS; u++) total[i][r][0] += total[i][r][u];
            y[i * R + r] = sum(total[i][r][0]) * scale + bias;
        }
    }
}

template <Kind kind, int J, class Put> static inline void outputs(const Product &p, int64_t j, const float *x, int64_t n, Put put) {
    float y[J * TILE_ROWS];
    int64_t r = 0;
    for (; r + TILE_ROWS <= n; r += TILE_ROWS) {
        tile<kind, J, TILE_ROWS>(p, j, x + r * p.K, y);
        for (int i = 0; i < J; i++)
            for (int s = 0; s < TILE_ROWS; s++) put(r + s, j + i, y[i * TILE_ROWS + s]);
    }
    for (; r < n; r++) {
        tile<kind, J, 1>(p, j, x + r * p.K, y);
        for (int i = 0; i < J; i++) put(r, j + i, y[i]);
    }
}

// Calls put(r, j, y) for the outputs y of n inputs x (n, K) and the weight rows j of a range.
template <Kind kind, class Put> static inline void multiply(const Product &p, const float *x, int64_t n, int64_t begin, int64_t end, Put put) {
    int64_t j = begin;
    end = end < p.N ? end : p.N;
    if (n >= TILE_ROWS)
        for (; j + TILE_OUTPUTS <= end; j += TILE_OUTPUTS) outputs<kind, TILE_OUTPUTS>(p, j, x, n, put);
    for (; j < end; j++) outputs<kind, 1>(p, j, x, n, put);
}

// ---- the rest of a layer ------------------------------------------------------------------------------

static void embed(const Model &m, int64_t token, int64_t position, float *x) {
    for (int64_t c = 0; c < padded(m.C); c++) x[c] = 0;
    if (m.embedding_kind == FLOAT32)
        for (int64_t c = 0; c < m.C; c++) x[c] = ((const float *)m.wte)[token * m.C + c] + ((const float *)m.wpe)[position * m.C + c];
    else
        for (int64_t c = 0; c < m.C; c++) x[c] = widen(((const bf16 *)m.wte)[token * m.C + c]) + widen(((const bf16 *)m.wpe)[position * m.C + c]);
}

// (n, C padded) -> its layer norm, the same shape
static void layer_norm(const Norm &norm, const float *x, int64_t n, int64_t C, float *y) {
    int64_t columns = padded(C);
    for (int64_t r = 0; r < n; r++, x += columns, y += columns) {
        Lanes total = {}, squares = {};
        for (int64_t c = 0; c < columns; c += LANES) total += lanes(x + c);
        float mean = sum(total) / C;
        for (int64_t c = 0; c < columns; c += LANES) {
            Lanes difference = lanes(x + c) - mean;
            for (int64_t i = C > c ? C - c : 0; i < LANES; i++) difference[i] = 0;  // of the padding
            squares += difference * difference;
        }
        float variance = sum(squares) / C;
        float scale = 1 / std::sqrt(variance + 1e-5f);
        for (int64_t c = 0; c < columns; c += LANES)
            store(y + c, (lanes(x + c) - mean) * scale * lanes(norm.weight + c) + lanes(norm.bias + c));
    }
}

static inline float dot(const float *a, const float *b, int64_t size) {
    Lanes total = {};
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) total += lanes(a + i) * lanes(b + i);
    float result = sum(total);
    for (; i < size; i++) result += a[i] * b[i];
    return result;
}

// y[from : from + 16 L] = the sum of p[s] · values[s] over S rows
template <int L> static inline void weigh(const float *p, const float *values, int64_t S, int64_t hd, int64_t from, float *y) {
    Lanes total[L] = {};
    for (int64_t s = 0; s < S; s++)
        for (int i = 0; i < L; i++) total[i] += p[s] * lanes(values + s * hd + from + i * LANES);
    for (int i = 0; i < L; i++) store(y + from + i * LANES, total[i]);
}

// softmax(q kᵀ / sqrt(hd)) v of one head and one query, which is at `position`: qkv (3C,), after its k and v were put into the
// cache. p: room for block_size numbers, padded.
static void attend(const Model &m, const Layer &layer, int64_t slot, int64_t head, int64_t position, const float *qkv, float *p, float *y) {
    int64_t hd = m.C / m.n_head, S = position + 1, cached = (slot * m.n_head + head) * m.block_size * hd;
    const float *q = qkv + head * hd, *keys = layer.keys + cached, *values = layer.values + cached;
    memcpy(layer.keys + cached + position * hd, q + m.C, hd * sizeof *q);
    memcpy(layer.values + cached + position * hd, q + 2 * m.C, hd * sizeof *q);
    float scale = 1 / std::sqrt((float)hd), most = -INFINITY;
    for (int64_t s = 0; s < S; s++) {
        p[s] = dot(q, keys + s * hd, hd) * scale;
        most = p[s] > most ? p[s] : most;
    }
    for (int64_t s = S; s % LANES; s++) p[s] = most;
    Lanes total = {};
    for (int64_t s = 0; s < S; s += LANES) {
        Lanes power = exp_of(lanes(p + s) - most);
        store(p + s, power);
        for (int64_t i = S - s; i < LANES; i++) power[i] = 0;  // behind the last key
        total += power;
    }
    float whole = sum(total);
    int64_t c = 0;
    y += head * hd;
    for (; c + 4 * LANES <= hd; c += 4 * LANES) weigh<4>(p, values, S, hd, c, y);
    for (; c + LANES <= hd; c += LANES) weigh<1>(p, values, S, hd, c, y);
    for (; c < hd; c++) {
        y[c] = 0;
        for (int64_t s = 0; s < S; s++) y[c] += p[s] * values[s * hd + c];
    }
    for (c = 0; c < hd; c++) y[c] /= whole;
}

// ---- threads ------------------------------------------------------------------------------------------

// Threads wait here until all have come. They spin, since a wait is far shorter than it takes to sleep and be woken, but not for
// long: where another program has the core of the thread that is waited for, it gets this one.
struct Barrier {
    std::atomic<int> arrived{0}, round{0};

    void wait(int n_threads) {
        if (n_threads == 1) return;
        int mine = round.load(std::memory_order_acquire);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) == n_threads - 1) {
            arrived.store(0, std::memory_order_relaxed);
            round.store(mine + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; round.load(std::memory_order_acquire) == mine; spins++)
            if (spins > SPINS) std::this_thread::yield();
#ifdef __x86_64__
            else _mm_pause();
#endif
    }
};

struct Range {
    int64_t begin, end;
};

// A thread's share of N outputs: whole lanes, so that no two threads write to the same ones.
static inline Range share(int64_t N, int thread, int n_threads) {
    int64_t blocks = (N + LANES - 1) / LANES;
    return {blocks * thread / n_threads * LANES, blocks * (thread + 1) / n_threads * LANES};
}

// ---- a step -------------------------------------------------------------------------------------------

// What threads share, and `own` for each of them; all padded columns are zero from the beginning and stay so.
struct Scratch {
    float *x, *y, *wide, *qkv;  // (n_slots, C padded) twice, (n_slots, 4C padded), (n_slots, 3C padded)
    float *normed, *p;          // of this thread: (n_slots, C padded), (block_size padded,)

    Scratch(const Model &m, float *memory, int thread) {
        int64_t C = padded(m.C);
        x = memory;
        y = x + m.n_slots * C;
        wide = y + m.n_slots * C;
        qkv = wide + m.n_slots * padded(4 * m.C);
        normed = qkv + m.n_slots * padded(3 * m.C) + thread * size_of_own(m);
        p = normed + m.n_slots * C;
    }

    static int64_t size_of_own(const Model &m) { return m.n_slots * padded(m.C) + padded(m.block_size); }

    static int64_t size(const Model &m, int64_t n_threads) {
        return m.n_slots * (2 * padded(m.C) + padded(4 * m.C) + padded(3 * m.C)) + n_threads * size_of_own(m);
    }
};

template <Kind kind>
static void run(const Model &m, int64_t n, const int64_t *tokens, const int64_t *positions, float *logits, float *memory, Barrier &barrier,
                int thread, int n_threads) {
    Scratch s(m, memory, thread);
    int64_t C = padded(m.C), wide = padded(4 * m.C);
    for (int64_t r = thread; r < n; r += n_threads) embed(m, tokens[r], positions[r], s.x + r * C);
    barrier.wait(n_threads);
    auto all_of = [&](const Product &p, const float *x, auto put) {
        Range mine = share(p.N, thread, n_threads);
        multiply<kind>(p, x, n, mine.begin, mine.end, put);
    };
    auto add = [&](int64_t r, int64_t j, float y) { s.x[r * C + j] += y; };
    for (int64_t l = 0; l < m.n_layer; l++) {
        const Layer &layer = m.layers[l];
        layer_norm(layer.ln_1, s.x, n, m.C, s.normed);
        all_of(layer.qkv, s.normed, [&](int64_t r, int64_t j, float y) { s.qkv[r * 3 * m.C + j] = y; });
        barrier.wait(n_threads);
        for (int64_t i = thread; i < n * m.n_head; i += n_threads) {
            int64_t r = i / m.n_head;
            attend(m, layer, r, i % m.n_head, positions[r], s.qkv + r * 3 * m.C, s.p, s.y + r * C);
        }
        barrier.wait(n_threads);
        all_of(layer.proj, s.y, add);
        barrier.wait(n_threads);
        layer_norm(layer.ln_2, s.x, n, m.C, s.normed);
        all_of(layer.fc, s.normed, [&](int64_t r, int64_t j, float y) { s.wide[r * wide + j] = y; });
        Range mine = share(4 * m.C, thread, n_threads);
        for (int64_t r = 0; r < n; r++)
            for (int64_t j = mine.begin; j < mine.end; j += LANES) store(s.wide + r * wide + j, gelu(lanes(s.wide + r * wide + j)));
        barrier.wait(n_threads);
        all_of(layer.fc_proj, s.wide, add);
        barrier.wait(n_threads);
    }
    layer_norm(m.ln_f, s.x, n, m.C, s.normed);
    all_of(m.head, s.normed, [&](int64_t r, int64_t j, float y) { logits[r * m.head.N + j] = y; });
    if (m.common) {
        Range mine = share(m.head.N, thread, n_threads);
        for (int64_t r = 0; r < n; r++) {
            float common = dot(s.normed + r * C, m.common, C);
            for (int64_t j = mine.begin; j < mine.end && j < m.head.N; j++) logits[r * m.head.N + j] += common;
        }
    }
}

extern "C" {

// A number that follows from all bytes, and from their order: any single change shows, and hardly ever do several cancel out. (Each
// of the 8 sums is multiplied by an odd number and turned after every word, which loses nothing, as in xxHash by Yann Collet.)
uint64_t digest_of(const char *bytes, int64_t size) {
    uint64_t lanes[8] = {1, 2, 3, 4, 5, 6, 7, 8}, words[8], whole = size;
    auto turned = [](uint64_t a) { return (a << 29 | a >> 35) * 0x9E3779B185EBCA87; };
    for (int64_t i = 0; i < size; i += 64) {
        memset(words, 0, 64);
        memcpy(words, bytes + i, size - i < 64 ? size - i : 64);
        for (int l = 0; l < 8; l++) lanes[l] = turned(lanes[l] ^ words[l]);
    }
    for (uint64_t lane : lanes) whole = turned(whole ^ lane) + lane;
    return whole;
}

// How many numbers of float32 a step by so many threads needs as memory.
int64_t scratch_size(const Model *m, int64_t n_threads) { return Scratch::size(*m, n_threads); }

// tokens, positions: (n,), of the slots 0 to n - 1. logits: (n, V). memory: zeros before the first step.
void step(const Model *m, int64_t n, const int64_t *tokens, const int64_t *positions, float *logits, float *memory, int64_t n_threads) {
    auto kernel = m->kind == FLOAT32 ? run<FLOAT32> : m->kind == BFLOAT16 ? run<BFLOAT16> : m->kind == INT8 ? run<INT8> : run<INT4>;
    Barrier barrier;
#ifdef _OPENMP
#pragma omp parallel num_threads(n_threads)
    kernel(*m, n, tokens, positions, logits, memory, barrier, omp_get_thread_num(), omp_get_num_threads());
#else
    kernel(*m, n, tokens, positions, logits, memory, barrier, 0, 1);
#endif
}
}
