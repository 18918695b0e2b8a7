// What an ELF file says of its segments, of the libraries it needs and of the unwinding of its frames. Files are the
// guest's: anything may be in them.
#pragma once
#include <elf.h>

#include <vector>

#include "sentry/base/types.h"

namespace sbx::platform {

// All n bytes at `offset`; false: the file ends before, or cannot be read.
bool read_all(int fd, void* to, size_t n, u64 offset);

// The program headers of an x86-64 file; none: it is not one.
std::vector<Elf64_Phdr> read_segments(int fd);

// Whether the file names libraries that it needs (DT_NEEDED), other than the loader: what it asks of the kernel it asks
// through them. The thread library of a glibc before 2.34 does not.
bool calls_through_libraries(int fd);

// Whether .eh_frame describes the code at `offset` of the file as the return from a signal handler ('S' in the
// augmentation of its CIE; System V ABI and LSB, "Exception Frames"): an unwinder then need not know its instructions.
bool has_signal_frame(int fd, u64 offset);

}  // namespace sbx::platform
