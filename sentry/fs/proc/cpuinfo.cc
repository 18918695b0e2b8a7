// /proc/cpuinfo from the CPUID instruction: no file of the host is needed, and every CPU shows alike. Names of features
// are Linux's (arch/x86/include/asm/cpufeatures.h).
#include <cpuid.h>

#include <algorithm>
#include <cstring>

#include "sentry/base/log.h"
#include "sentry/fs/proc/target.h"

namespace sbx::fs::proc {

namespace {

enum Register : u8 { kEax, kEbx, kEcx, kEdx };

struct Word {
  u32 leaf, sub;
  Register reg;
  const char* names[32];  // null: not shown
};

#define N nullptr
constexpr Word kWords[] = {
    {1, 0, kEdx, {"fpu",  "vme",  "de",   "pse", "tsc",  "msr", "pae",   "mce", "cx8",     "apic", N,
                  "sep",  "mtrr", "pge",  "mca", "cmov", "pat", "pse36", "pn",  "clflush", N,      "dts",
                  "acpi", "mmx",  "fxsr", "sse", "sse2", "ss",  "ht",    "tm",  "ia64",    "pbe"}},
    {0x80000001, 0, kEdx, {N,         N, N, N,          N,         N,        N, N,    N,          N,      N,
                           "syscall", N, N, N,          N,         N,        N, N,    "mp",       "nx",   N,
                           "mmxext",  N, N, "fxsr_opt", "pdpe1gb", "rdtscp", N, "lm", "3dnowext", "3dnow"}},
    {1, 0, kEcx, {"pni",    "pclmulqdq", "dtes64", N,        "ds_cpl",
                  N,        "smx",       "est",    "tm2",    "ssse3",
                  "cid",    "sdbg",      "fma",    "cx16",   "xtpr",
                  "pdcm",   N,           "pcid",   "dca",    "sse4_1",
                  "sse4_2", "x2apic",    "movbe",  "popcnt", "tsc_deadline_timer",
                  "aes",    "xsave",     N,        "avx",    "f16c",
                  "rdrand", "hypervisor"}},
    {0x80000001,
     0,
     kEcx,
     {"lahf_lm",
      "cmp_legacy",
      N,
      "extapic",
      "cr8_legacy",
      "abm",
      "sse4a",
      "misalignsse",
      "3dnowprefetch",
      "osvw",
      "ibs",
      "xop",
      "skinit",
      "wdt",
      N,
      "lwp",
      "fma4",
      "tce",
      N,
      "nodeid_msr",
      N,
      "tbm",
      "topoext",
      "perfctr_core",
      "perfctr_nb",
      N,
      "bpext",
      "ptsc",
      "perfctr_llc",
      "mwaitx",
      N,
      N}},
    {7,
     0,
     kEbx,
     {"fsgsbase", "tsc_adjust", N,        "bmi1",       "hle",     "avx2",       N,       "smep",     "bmi2",
      "erms",     "invpcid",    "rtm",    "cqm",        N,         "mpx",        "rdt_a", "avx512f",  "avx512dq",
      "rdseed",   "adx",        "smap",   "avx512ifma", N,         "clflushopt", "clwb",  "intel_pt", "avx512pf",
      "avx512er", "avx512cd",   "sha_ni", "avx512bw",   "avx512vl"}},
    {0xd, 1, kEax, {"xsaveopt", "xsavec", "xgetbv1", "xsaves"}},
    {7, 1, kEax, {N, N, N, N, "avx_vnni", "avx512_bf16"}},
    {0x80000008, 0, kEbx, {"clzero", "irperf", "xsaveerptr", N, "rdpru", N, N, N, N, "wbnoinvd"}},
    {6, 0, kEax, {N, N, "arat"}},
    {7,
     0,
     kEcx,
     {N,
      "avx512vbmi",
      "umip",
      "pku",
      "ospke",
      "waitpkg",
      "avx512_vbmi2",
      N,
      "gfni",
      "vaes",
      "vpclmulqdq",
      "avx512_vnni",
      "avx512_bitalg",
      "tme",
      "avx512_vpopcntdq",
      N,
      "la57",
      N,
      N,
      N,
      N,
      N,
      "rdpid",
      N,
      "bus_lock_detect",
      "cldemote",
      N,
      "movdiri",
      "movdir64b",
      "enqcmd"}},
    {7,
     0,
     kEdx,
     {N,
      N,
      "avx512_4vnniw",
      "avx512_4fmaps",
      "fsrm",
      N,
      N,
      N,
      "avx512_vp2intersect",
      N,
      "md_clear",
      N,
      N,
      N,
      "serialize",
      N,
      N,
      N,
      N,
      "arch_lbr",
      "ibt",
      N,
      "amx_bf16",
      "avx512_fp16",
      "amx_tile",
      "amx_int8",
      N,
      N,
      "flush_l1d",
      "arch_capabilities"}},
};
#undef N

bool cpuid(u32 leaf, u32 sub, u32 out[4]) {
  std::memset(out, 0, 16);
  if (__get_cpuid_max(leaf & 0x80000000, nullptr) < leaf) return false;
  __cpuid_count(leaf, sub, out[kEax], out[kEbx], out[kEcx], out[kEdx]);
  return true;
}

std::string flags() {
  std::string out;
  u32 r[4];
  for (const Word& word : kWords) {
    if (!cpuid(word.leaf, word.sub, r)) continue;
    for (u32 bit = 0; bit < 32; ++bit) {
      if (word.names[bit] == nullptr || ((r[word.reg] >> bit) & 1) == 0) continue;
      out += out.empty() ? "" : " ";
      out += word.names[bit];
    }
    // What Linux derives: a clock that programs may rely on.
    if (word.leaf == 1 && word.reg == kEdx && cpuid(0x80000007, 0, r) && ((r[kEdx] >> 8) & 1) != 0) {
      out += " constant_tsc nonstop_tsc";
    }
  }
  return out + " rep_good nopl cpuid";
}

std::string text_of(const u32* words, size_t n) {
  std::string out(reinterpret_cast<const char*>(words), n * 4);
  out.resize(std::min(out.size(), out.find('\0')));
  return std::string(trim(out));
}

}  // namespace

std::string cpuinfo_text(const std::vector<u32>& cpus) {
  u32 r[4];
  cpuid(0, 0, r);
  const u32 vendor_words[3] = {r[kEbx], r[kEdx], r[kEcx]};
  const std::string vendor = text_of(vendor_words, 3);
  const u32 level = r[kEax];
  cpuid(1, 0, r);
  const u32 base_family = (r[kEax] >> 8) & 0xf, signature = r[kEax], clflush = ((r[kEbx] >> 8) & 0xff) * 8;
  const u32 family = base_family == 0xf ? base_family + ((signature >> 20) & 0xff) : base_family;
  const u32 model = ((signature >> 4) & 0xf) | (base_family >= 6 ? ((signature >> 16) & 0xf) << 4 : 0);
  u32 brand[12] = {};
  for (u32 i = 0; i < 3; ++i) cpuid(0x80000002 + i, 0, brand + 4 * i);
  const std::string name = text_of(brand, 12);
  // Of the clock rate CPUID tells little: the rated one, else what the brand says, else nothing.
  double mhz = 0;
  if (cpuid(0x16, 0, r)) mhz = r[kEax] & 0xffff;
  size_t at = name.rfind("@ ");
  if (mhz == 0 && at != std::string::npos) mhz = strtod(name.c_str() + at + 2, nullptr) * 1000;
  u32 cache_kb = 0;
  if (cpuid(0x80000006, 0, r)) cache_kb = r[kEcx] >> 16;
  cpuid(0x80000008, 0, r);
  const u32 physical = r[kEax] & 0xff, linear = (r[kEax] >> 8) & 0xff;
  const std::string features = flags();
  std::string out;
  u32 index = 0;
  for (u32 cpu : cpus) {
    out += str_printf(
        "processor\t: %u\nvendor_id\t: %s\ncpu family\t: %u\nmodel\t\t: %u\nmodel name\t: %s\nstepping\t: %u\n", cpu,
        vendor.c_str(), family, model, name.empty() ? "unknown" : name.c_str(), signature & 0xf);
    out += str_printf(
        "microcode\t: 0xffffffff\ncpu MHz\t\t: %.3f\ncache size\t: %u KB\nphysical id\t: 0\nsiblings\t: %zu\n", mhz,
        cache_kb, cpus.size());
    out += str_printf(
        "core id\t\t: %u\ncpu cores\t: %zu\napicid\t\t: %u\ninitial apicid\t: %u\nfpu\t\t: yes\n"
        "fpu_exception\t: yes\ncpuid level\t: %u\nwp\t\t: yes\n",
        index, cpus.size(), index, index, level);
    out += "flags\t\t: " + features + "\nbugs\t\t:\n";
    out += str_printf(
        "bogomips\t: %.2f\nclflush size\t: %u\ncache_alignment\t: %u\n"
        "address sizes\t: %u bits physical, %u bits virtual\npower management:\n\n",
        mhz * 2, clflush, clflush, physical, linear);
    ++index;
  }
  return out;
}

}  // namespace sbx::fs::proc
