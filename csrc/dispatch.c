/* Which unit serves: a best-first list, what the machine can run, and VOXCONV_ISA. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "problem.h"

/* The build defines VOX_HAVE_<name> for each set whose units are there. */
#if defined(VOX_HAVE_avx512)
extern const vox_unit vox_avx512_f32, vox_avx512_f64;
/* __builtin_cpu_supports asks the operating system's register state too, not the processor alone. */
static int has_avx512(void) {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl");
}
#endif
#if defined(VOX_HAVE_avx2)
extern const vox_unit vox_avx2_f32, vox_avx2_f64;
static int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif
#if defined(__x86_64__)
#define BASE "sse2"
#elif defined(__aarch64__)
#define BASE "neon"
#else
#define BASE "base"
#endif
extern const vox_unit vox_base_f32, vox_base_f64;
static int always(void) { return 1; }

static const struct {
  const char *name;
  const vox_unit *unit[2];
  int (*runs_here)(void);
} table[] = {
#if defined(VOX_HAVE_avx512)
    {"avx512", {&vox_avx512_f32, &vox_avx512_f64}, has_avx512},
#endif
#if defined(VOX_HAVE_avx2)
    {"avx2", {&vox_avx2_f32, &vox_avx2_f64}, has_avx2},
#endif
    {BASE, {&vox_base_f32, &vox_base_f64}, always},
};
enum { COUNT = sizeof table / sizeof table[0] };

int64_t vox_abi(void) { return VOX_ABI; }

int vox_isa_count(void) { return COUNT; }
const char *vox_isa_name(int isa) { return isa >= 0 && isa < COUNT ? table[isa].name : ""; }
int vox_isa_supported(int isa) { return isa >= 0 && isa < COUNT && table[isa].runs_here(); }
int vox_isa_lanes(int isa, int type) {
  return isa >= 0 && isa < COUNT && (type == VOX_F32 || type == VOX_F64) ? (int)table[isa].unit[type]->lanes : 0;
}

static int choose(void) {
  const char *cap = getenv("VOXCONV_ISA");
  for (int i = 0; i < COUNT; i++)
    if (cap && *cap ? !strcmp(cap, table[i].name) : table[i].runs_here()) return table[i].runs_here() ? i : VOX_INVALID;
  return VOX_INVALID;
}

int vox_isa_used(void) {
  static _Atomic int used = VOX_INVALID; /* two threads may both choose: they choose the same */
  int isa = atomic_load(&used);
  if (isa < 0) atomic_store(&used, isa = choose());
  return isa;
}

const vox_unit *vox_unit_used(int32_t type) {
  int isa = vox_isa_used();
  return isa >= 0 && (type == VOX_F32 || type == VOX_F64) ? table[isa].unit[type] : NULL;
}

int64_t vox_probe_fma(int32_t type, int64_t iterations, double *sink) {
  const vox_unit *unit = vox_unit_used(type);
  return unit ? unit->probe_fma(iterations, sink) : VOX_INVALID;
}

int64_t vox_probe_copy(int64_t iterations, int64_t count, const float *from, float *to) {
  const vox_unit *unit = vox_unit_used(VOX_F32);
  return unit ? unit->probe_copy(iterations, count, from, to) : VOX_INVALID;
}

extern const vox_elem_unit vox_elem_f32, vox_elem_f64, vox_elem_i8, vox_elem_u8, vox_elem_i16, vox_elem_u16, vox_elem_i32,
    vox_elem_u32, vox_elem_i64, vox_elem_u64;

const vox_elem_unit *vox_elem_unit_of(int32_t type) {
  static const vox_elem_unit *const units[] = {&vox_elem_f32, &vox_elem_f64, &vox_elem_i8,  &vox_elem_u8,
                                               &vox_elem_i16, &vox_elem_u16, &vox_elem_i32, &vox_elem_u32,
                                               &vox_elem_i64, &vox_elem_u64};
  return units[type];
}
