// Device primitives: everything by which a kernel touches the machine.
//
// Each primitive has two bodies: one PTX instruction (or intrinsic) under nvcc, and a call of the
// emulator (csrc/emulator) under any other compiler, where a CUDA thread is a fiber. A kernel that
// keeps to this layer runs on both, and the emulator checks and counts what it does.
//
// Warp primitives are executed by all 32 lanes together. `site` is the place in the source that the
// emulator reports; callers leave it out, helpers may pass on their own caller's.
#pragma once

#include <math.h>  // fmaf, fmaxf: the same names on both sides
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define EL_DEVICE __device__ __forceinline__
#define EL_HOST_DEVICE __host__ __device__ __forceinline__
// A kernel: EL_KERNEL(most threads of a block, least blocks on a multiprocessor) void name(...)
#define EL_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define EL_GRID_CONSTANT __grid_constant__
#ifdef __CUDA_ARCH__
#define EL_ARCH (__CUDA_ARCH__ / 10)
#else
#define EL_ARCH 0  // host pass: device bodies are parsed, never compiled
#endif
#else
#include "../emulator/device.h"
#define EL_DEVICE inline __attribute__((always_inline))
#define EL_HOST_DEVICE inline __attribute__((always_inline))
#define EL_KERNEL(threads, blocks) void
#define EL_GRID_CONSTANT
#ifndef EL_EMULATED_ARCH
#define EL_EMULATED_ARCH 80
#endif
#define EL_ARCH EL_EMULATED_ARCH
#endif

namespace el_attention::cuda {

#ifdef __CUDACC__
struct Site {
  EL_DEVICE static constexpr Site here() { return {}; }
};
#else
using emulator::Site;
#endif

// ---- Types --------------------------------------------------------------------------------------

// 16-bit floating-point numbers as raw bits. Trivial, so that arrays of them cost nothing.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// 8 and 16 bytes that move as one access; several elements of any type.
struct alignas(8) Bytes8 {
  uint32_t words[2];
};
struct alignas(16) Bytes16 {
  uint32_t words[4];
};

// Two numbers out of one 32-bit register.
struct Pair {
  float low;
  float high;
};

constexpr int kWarpSize = 32;

// The bits of a value as another type of the same size.
template <typename To, typename From>
EL_HOST_DEVICE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast: the sizes differ");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// ---- Position -----------------------------------------------------------------------------------
// Blocks are one-dimensional and a multiple of 32 threads; grids have up to three dimensions.

EL_DEVICE int thread_id() {
#ifdef __CUDACC__
  return threadIdx.x;
#else
  return emulator::position().thread;
#endif
}

EL_DEVICE int lane_id() { return thread_id() % kWarpSize; }
EL_DEVICE int warp_id() { return thread_id() / kWarpSize; }

// Threads of a block.
EL_DEVICE int block_size() {
#ifdef __CUDACC__
  return blockDim.x;
#else
  return emulator::position().threads;
#endif
}

EL_DEVICE int block_x() {
#ifdef __CUDACC__
  return blockIdx.x;
#else
  return emulator::position().block.x;
#endif
}

EL_DEVICE int block_y() {
#ifdef __CUDACC__
  return blockIdx.y;
#else
  return emulator::position().block.y;
#endif
}

EL_DEVICE int block_z() {
#ifdef __CUDACC__
  return blockIdx.z;
#else
  return emulator::position().block.z;
#endif
}

EL_DEVICE int grid_x() {
#ifdef __CUDACC__
  return gridDim.x;
#else
  return emulator::position().grid.x;
#endif
}

// ---- Barriers -----------------------------------------------------------------------------------

// Waits for all threads of the block; makes their writes visible to each other.
EL_DEVICE void sync_threads(Site site = Site::here()) {
#ifdef __CUDACC__
  __syncthreads();
#else
  emulator::sync_block(site);
#endif
}

// sync_threads that also tells whether `predicate` holds in any thread of the block.
EL_DEVICE bool sync_threads_or(bool predicate, Site site = Site::here()) {
#ifdef __CUDACC__
  return __syncthreads_or(predicate);
#else
  return emulator::sync_block_or(predicate, site);
#endif
}

// Waits for `threads` threads (whole warps) at barrier `barrier` of the block, 1 to 15; makes their
// writes visible to each other. For a part of the warps only.
EL_DEVICE void sync_group(int barrier, int threads, Site site = Site::here()) {
#ifdef __CUDACC__
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
#else
  emulator::sync_group(barrier, threads, site);
#endif
}

// Waits for the lanes of the warp; makes their writes visible to each other.
EL_DEVICE void sync_warp(Site site = Site::here()) {
#ifdef __CUDACC__
  __syncwarp();
#else
  emulator::sync_warp(site);
#endif
}

// ---- Exchange between lanes ---------------------------------------------------------------------
// Shuffles move registers. They order no memory access: that takes a barrier.
// T: int32_t, uint32_t, int64_t, uint64_t, float, double.

// The value of lane `source`.
template <typename T>
EL_DEVICE T shuffle(T value, int source, Site site = Site::here()) {
#ifdef __CUDACC__
  return __shfl_sync(0xffffffffu, value, source);
#else
  return emulator::shuffle(value, source, site);
#endif
}

// The value of lane `lane_id() ^ mask`.
template <typename T>
EL_DEVICE T shuffle_xor(T value, int mask, Site site = Site::here()) {
#ifdef __CUDACC__
  return __shfl_xor_sync(0xffffffffu, value, mask);
#else
  return emulator::shuffle(value, emulator::position().thread % kWarpSize ^ mask, site);
#endif
}

// Bit i tells whether `predicate` holds in lane i.
EL_DEVICE uint32_t warp_ballot(bool predicate, Site site = Site::here()) {
#ifdef __CUDACC__
  return __ballot_sync(0xffffffffu, predicate);
#else
  return emulator::ballot(predicate, site);
#endif
}

EL_DEVICE bool warp_any(bool predicate, Site site = Site::here()) {
  return warp_ballot(predicate, site) != 0;
}

// The number of bits that are set.
EL_DEVICE int count_bits(uint32_t bits) {
#ifdef __CUDACC__
  return __popc(bits);
#else
  return __builtin_popcount(bits);
#endif
}

// The greatest value, in all lanes of each group of `Width` neighbouring lanes. NaN is dropped.
template <int Width = kWarpSize, typename T>
EL_DEVICE T warp_max(T value, Site site = Site::here()) {
  static_assert(Width >= 1 && Width <= kWarpSize && (Width & (Width - 1)) == 0);
#pragma unroll
  for (int mask = Width / 2; mask > 0; mask /= 2) {
    const T other = shuffle_xor(value, mask, site);
    value = sizeof(T) == sizeof(double) ? T(fmax(value, other)) : T(fmaxf(value, other));
  }
  return value;
}

// The sum, with the same bits in all lanes of each group of `Width` neighbouring lanes.
template <int Width = kWarpSize, typename T>
EL_DEVICE T warp_sum(T value, Site site = Site::here()) {
  static_assert(Width >= 1 && Width <= kWarpSize && (Width & (Width - 1)) == 0);
#pragma unroll
  for (int mask = Width / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask, site);
  return value;
}

// ---- Arithmetic ---------------------------------------------------------------------------------

// 2^x; 0 for -inf. float: ex2.approx, 2 ulp, subnormal results are 0. double: correct to 1 ulp.
EL_DEVICE float fast_exp2(float x) {
#ifdef __CUDACC__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return ::exp2f(x);
#endif
}
EL_DEVICE double fast_exp2(double x) { return ::exp2(x); }

// log2(x); -inf for 0. float: lg2.approx, absolute error 2^-22 near 1, else 2 ulp.
EL_DEVICE float fast_log2(float x) {
#ifdef __CUDACC__
  float y;
  asm("lg2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return ::log2f(x);
#endif
}
EL_DEVICE double fast_log2(double x) { return ::log2(x); }

// ---- Conversion ---------------------------------------------------------------------------------
// convert<To>(from), rounding to nearest even. The 16-bit types meet float only; a kernel that
// accumulates in A = float or double reads T by convert<A>(x) and writes it by convert<T>(a).

EL_DEVICE float to_float(Half x) {
#ifdef __CUDACC__
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
#else
  return emulator::float_from_half(x.bits);
#endif
}
EL_DEVICE float to_float(BFloat16 x) { return bit_cast<float>(uint32_t(x.bits) << 16); }

EL_DEVICE void from_float(float x, Half& y) {
#ifdef __CUDACC__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
  y.bits = emulator::half_from_float(x);
#endif
}
EL_DEVICE void from_float(float x, BFloat16& y) {
#if defined(__CUDACC__) && EL_ARCH >= 80
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
  // sm_75 has no such instruction: round by integers, and keep NaN a NaN.
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
  y.bits = uint16_t(x != x ? 0x7fff : rounded >> 16);
#endif
}

namespace detail {
template <typename To, typename From>
struct Convert {  // float and double
  EL_DEVICE static To of(From x) { return static_cast<To>(x); }
};
template <typename To>
struct Convert<To, Half> {
  EL_DEVICE static To of(Half x) { return static_cast<To>(to_float(x)); }
};
template <typename To>
struct Convert<To, BFloat16> {
  EL_DEVICE static To of(BFloat16 x) { return static_cast<To>(to_float(x)); }
};
template <>
struct Convert<Half, float> {
  EL_DEVICE static Half of(float x) {
    Half y;
    from_float(x, y);
    return y;
  }
};
template <>
struct Convert<BFloat16, float> {
  EL_DEVICE static BFloat16 of(float x) {
    BFloat16 y;
    from_float(x, y);
    return y;
  }
};
}  // namespace detail

template <typename To, typename From>
EL_DEVICE To convert(From x) {
  return detail::Convert<To, From>::of(x);
}

// Two numbers as a register of two T (Half or BFloat16): `low` in bits 0-15, the lower address.
template <typename T>
EL_DEVICE uint32_t pack(float low, float high);

template <>
EL_DEVICE uint32_t pack<Half>(float low, float high) {
#if defined(__CUDACC__) && EL_ARCH >= 80
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
#else
  return convert<Half>(low).bits | uint32_t(convert<Half>(high).bits) << 16;
#endif
}
template <>
EL_DEVICE uint32_t pack<BFloat16>(float low, float high) {
#if defined(__CUDACC__) && EL_ARCH >= 80
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
#else
  return convert<BFloat16>(low).bits | uint32_t(convert<BFloat16>(high).bits) << 16;
#endif
}

template <typename T>
EL_DEVICE Pair unpack(uint32_t packed) {
  return {to_float(T{uint16_t(packed)}), to_float(T{uint16_t(packed >> 16)})};
}

// ---- Memory -------------------------------------------------------------------------------------
// One access of 1, 2, 4, 8 or 16 bytes, aligned to its size. T: any trivial type of that size.

namespace detail {
template <int Bytes>
struct Word;
template <>
struct Word<1> {
  using Type = uint8_t;
};
template <>
struct Word<2> {
  using Type = uint16_t;
};
template <>
struct Word<4> {
  using Type = uint32_t;
};
#ifdef __CUDACC__  // the vector types make nvcc emit one wide instruction
template <>
struct Word<8> {
  using Type = uint2;
};
template <>
struct Word<16> {
  using Type = uint4;
};
#else
template <>
struct Word<8> {
  using Type = Bytes8;
};
template <>
struct Word<16> {
  using Type = Bytes16;
};
#endif
template <typename T>
using WordOf = typename Word<sizeof(T)>::Type;
}  // namespace detail

// Reads global memory that neither this launch nor an earlier one of the same call writes
// (ld.global.nc).
template <typename T>
EL_DEVICE T load_global(const void* address, Site site = Site::here()) {
#ifdef __CUDACC__
  return bit_cast<T>(__ldg(static_cast<const detail::WordOf<T>*>(address)));
#else
  detail::WordOf<T> word;
  emulator::load_global(&word, address, sizeof(T), site);
  return bit_cast<T>(word);
#endif
}

// Reads global memory that an earlier launch of the same call wrote (ld.global): right even where
// launches overlap, as a read-only load would not be.
template <typename T>
EL_DEVICE T load_written(const void* address, Site site = Site::here()) {
#ifdef __CUDACC__
  return bit_cast<T>(*static_cast<const detail::WordOf<T>*>(address));
#else
  return load_global<T>(address, site);
#endif
}

// Writes global memory; no two blocks of a launch write the same byte.
template <typename T>
EL_DEVICE void store_global(void* address, T value, Site site = Site::here()) {
#ifdef __CUDACC__
  *static_cast<detail::WordOf<T>*>(address) = bit_cast<detail::WordOf<T>>(value);
#else
  emulator::store_global(address, &value, sizeof(T), site);
#endif
}

// Writes global memory of 2, 4 or 8 bytes where other threads may write the same value.
template <typename T>
EL_DEVICE void store_global_relaxed(void* address, T value, Site site = Site::here()) {
#ifdef __CUDACC__
  if constexpr (sizeof(T) == 2) {
    asm volatile("st.relaxed.gpu.global.b16 [%0], %1;" ::"l"(address),
                 "h"(bit_cast<uint16_t>(value))
                 : "memory");
  } else if constexpr (sizeof(T) == 4) {
    asm volatile("st.relaxed.gpu.global.b32 [%0], %1;" ::"l"(address),
                 "r"(bit_cast<uint32_t>(value))
                 : "memory");
  } else {
    asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(address),
                 "l"(bit_cast<uint64_t>(value))
                 : "memory");
  }
#else
  emulator::store_global_relaxed(address, &value, sizeof(T), site);
#endif
}

// Writes 8 bytes of the host's memory, at once; whoever writes last stays.
EL_DEVICE void store_host(uint64_t* address, uint64_t value) {
#ifdef __CUDACC__
  asm volatile("st.relaxed.sys.global.b64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
#else
  __atomic_store_n(address, value, __ATOMIC_RELAXED);
#endif
}

template <typename T>
EL_DEVICE T load_shared(const void* address, Site site = Site::here()) {
#ifdef __CUDACC__
  return bit_cast<T>(*static_cast<const detail::WordOf<T>*>(address));
#else
  detail::WordOf<T> word;
  emulator::load_shared(&word, address, sizeof(T), site);
  return bit_cast<T>(word);
#endif
}

template <typename T>
EL_DEVICE void store_shared(void* address, T value, Site site = Site::here()) {
#ifdef __CUDACC__
  *static_cast<detail::WordOf<T>*>(address) = bit_cast<detail::WordOf<T>>(value);
#else
  emulator::store_shared(address, &value, sizeof(T), site);
#endif
}

// ---- Shared memory ------------------------------------------------------------------------------

// Deals out the dynamic shared memory of the block, array after array. The same code runs on the
// host with SharedArena::sizing() to know the bytes that a launch must ask for:
//
//   struct Storage {
//     Half* tiles;
//     float* sums;
//     EL_HOST_DEVICE explicit Storage(SharedArena& arena)
//         : tiles(arena.take<Half>(4096, "tiles")), sums(arena.take<float>(64, "sums")) {}
//   };
//   SharedArena arena = SharedArena::of_block();   // in the kernel
//   Storage storage(arena);
//
// Every thread of a block takes the same arrays in the same order. In the emulator there are red
// zones between them, and they hold NaN until they are written.
class SharedArena {
 public:
  // On the host: counts bytes; the pointers are null.
  EL_HOST_DEVICE static SharedArena sizing() { return SharedArena(nullptr); }

  // In a kernel.
  EL_DEVICE static SharedArena of_block() {
#ifdef __CUDACC__
    extern __shared__ __align__(128) unsigned char el_attention_shared[];
    return SharedArena(el_attention_shared);
#else
    return SharedArena(emulator::shared_memory());
#endif
  }

  // `count` elements, 128-byte aligned: rows of 128 bytes start at bank 0. `name` is for messages.
  template <typename T>
  EL_HOST_DEVICE T* take(size_t count, const char* name) {
    const size_t offset = bytes_, size = count * sizeof(T);
    bytes_ += (size + 127) / 128 * 128;
#ifdef __CUDA_ARCH__
    // Never null: a test would hide from the compiler that this is shared memory.
    return reinterpret_cast<T*>(memory_ + offset);
#elif defined(__CUDACC__)
    return nullptr;  // the host only sizes
#else
    if (memory_ == nullptr) return nullptr;
    return static_cast<T*>(emulator::shared_array(offset, size, name));
#endif
  }

  // Bytes of shared memory taken so far.
  EL_HOST_DEVICE size_t bytes() const { return bytes_; }

 private:
  EL_HOST_DEVICE explicit SharedArena(unsigned char* memory) : memory_(memory) {}

  unsigned char* memory_;
  size_t bytes_ = 0;
};

// ---- Asynchronous copy --------------------------------------------------------------------------
// A thread copies global memory to shared memory in the background: copy_async, any number of
// times, then commit_copies, which closes a group; wait_copies<n> waits until at most the n newest
// groups of this thread are under way. Other threads see the data after a barrier that follows the
// wait. sm_75 copies at once.

// 16 bytes, both addresses 16-byte aligned. Where `valid` is false, zeros are written and nothing
// is read; `global` may then be any address.
EL_DEVICE void copy_async(void* shared, const void* global, bool valid = true,
                          Site site = Site::here()) {
#if EL_ARCH < 80
  Bytes16 data = {};
  if (valid) data = load_global<Bytes16>(global, site);
  store_shared(shared, data, site);
#elif defined(__CUDACC__)
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(valid ? 16 : 0)
               : "memory");
#else
  emulator::copy_async(shared, global, valid, site);
#endif
}

EL_DEVICE void commit_copies() {
#if EL_ARCH < 80
#elif defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emulator::commit_copies();
#endif
}

template <int Newest>
EL_DEVICE void wait_copies() {
#if EL_ARCH < 80
#elif defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(Newest) : "memory");
#else
  emulator::wait_copies(Newest);
#endif
}

// ---- Matrices -----------------------------------------------------------------------------------

// Loads four 8x8 matrices of 16-bit elements. Lane i gives the address of row i % 8 of matrix i / 8
// (16 bytes, 16-byte aligned, in shared memory). fragment[m] gets the elements (row l / 4, columns
// 2 * (l % 4) and + 1) of matrix m in lane l. sm_75 and newer; before it a trap.
EL_DEVICE void ldmatrix_x4(uint32_t (&fragment)[4], const void* row, Site site = Site::here()) {
#if defined(__CUDACC__) && EL_ARCH >= 75
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#elif defined(__CUDACC__)
  asm volatile("trap;");
#else
  emulator::ldmatrix_x4(fragment, row, false, site);
#endif
}

// ldmatrix_x4 of the transposed matrices: fragment[m] gets the elements (rows 2 * (l % 4) and + 1,
// column l / 4) of matrix m in lane l.
EL_DEVICE void ldmatrix_x4_trans(uint32_t (&fragment)[4], const void* row,
                                 Site site = Site::here()) {
#if defined(__CUDACC__) && EL_ARCH >= 75
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
#elif defined(__CUDACC__)
  asm volatile("trap;");
#else
  emulator::ldmatrix_x4(fragment, row, true, site);
#endif
}

// sum += a * b: [16, 8] float += [16, 16] T * [16, 8] T. With g = lane / 4 and t = 2 * (lane % 4):
//   a[0] = (g, t..t+1)   a[1] = (g + 8, t..)   a[2] = (g, t + 8..)   a[3] = (g + 8, t + 8..)
//   b0 = (t..t+1, g)     b1 = (t + 8.., g)
//   sum[0], sum[1] = (g, t), (g, t + 1)        sum[2], sum[3] = (g + 8, t), (g + 8, t + 1)
// Half on sm_75 and newer, BFloat16 on sm_80 and newer; before them a trap.
template <typename T>
EL_DEVICE void mma_m16n8k16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                            Site site = Site::here());

template <>
EL_DEVICE void mma_m16n8k16<Half>(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                  Site site) {
#if defined(__CUDACC__) && EL_ARCH >= 80
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#elif defined(__CUDACC__) && EL_ARCH >= 75
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(b0));
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[2]), "r"(a[3]), "r"(b1));
#elif defined(__CUDACC__)
  asm volatile("trap;");
#elif EL_ARCH >= 80
  emulator::mma_m16n8k16_half(sum, a, b0, b1, site);
#else
  emulator::mma_m16n8k8_half(sum, a[0], a[1], b0, site);
  emulator::mma_m16n8k8_half(sum, a[2], a[3], b1, site);
#endif
}

template <>
EL_DEVICE void mma_m16n8k16<BFloat16>([[maybe_unused]] float (&sum)[4],
                                      [[maybe_unused]] const uint32_t (&a)[4],
                                      [[maybe_unused]] uint32_t b0, [[maybe_unused]] uint32_t b1,
                                      [[maybe_unused]] Site site) {
#if defined(__CUDACC__) && EL_ARCH >= 80
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#elif defined(__CUDACC__)
  asm volatile("trap;");
#elif EL_ARCH >= 80
  emulator::mma_m16n8k16_bfloat16(sum, a, b0, b1, site);
#else
  emulator::trap("mma of BFloat16 takes sm_80 or newer", site);
#endif
}

}  // namespace el_attention::cuda
