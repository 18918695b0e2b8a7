// The stub's machine code: header, patched entry and exit, signal return, and the restartable windows.
// Offsets are of GuestRegs, Private and UContext (stub.h) and Slot::kick (layout.h); start.cc asserts them.
#define R8 0
#define R9 8
#define R10 16
#define R11 24
#define R12 32
#define R13 40
#define R14 48
#define R15 56
#define RDI 64
#define RSI 72
#define RBP 80
#define RBX 88
#define RDX 96
#define RAX 104
#define RCX 112
#define RSP 120
#define RIP 128
#define EFL 136
#define P_GUEST_RSP 0
#define P_REGS 8
#define P_SLOT 16
#define P_DELIVER 24
#define UC_RIP (40 + RIP)
#define KICK 132
#define STATE_GONE 3
#define P_RET 48
#define REPORT_ALL 676
#define IDENTITY_PID 688
#define IDENTITY_TID 692
#define IDENTITY_PPID 696
#define TIER0_CALLS 776
#define PATCHED_CALLS 792
#define GS(x) %gs:x

  .section .header, "ax"
  .globl blob_header
blob_header:
  .quad 0x6275747378627301
  .quad template_entry
  .quad stub_entry

  .section .text.entry, "ax"

// void template_entry(TemplateArgs*): leaves the sentry's copied stack for stub stack 0.
template_entry:
  mov $(0x71000000 + 0x8000 - 512 - 512), %rsp
  call template_main
  ud2

// An id of the slot, at once: no flag and no register but rcx and r11 is lost on the way. A kick before _tail is seen by
// the look at the flag; one at _tail sends the call the slow way; after that the guest's code has begun.
.macro quick name, field
\name:
  mov GS(P_SLOT), %r11
  mov REPORT_ALL(%r11), %ecx
  jrcxz 1f
  jmp stub_entry_slow
1:
  mov TIER0_CALLS(%r11), %rcx
  lea 1(%rcx), %rcx
  mov %rcx, TIER0_CALLS(%r11)
  mov PATCHED_CALLS(%r11), %rcx
  lea 1(%rcx), %rcx
  mov %rcx, PATCHED_CALLS(%r11)
  mov KICK(%r11), %ecx
  jrcxz 2f
  jmp stub_entry_slow
2:
  .globl \name\()_tail
\name\()_tail:
  mov \field(%r11), %eax
  .globl \name\()_last
\name\()_last:
  mov GS(P_RET), %rcx
  jmp *%rcx
  .globl \name\()_end
\name\()_end:
.endm
  quick stub_getpid, IDENTITY_PID
  quick stub_getppid, IDENTITY_PPID
  quick stub_gettid, IDENTITY_TID
quick_getpid:
  jmp stub_getpid
quick_getppid:
  jmp stub_getppid
quick_gettid:
  jmp stub_gettid

// A patched site. rcx: where the guest goes on; eax: number; r11 lost. Nothing is pushed on the guest stack.
  .globl stub_entry
stub_entry:
  mov %rcx, GS(P_RET)
  lea -39(%rax), %ecx
  jrcxz quick_getpid
  lea -110(%rax), %ecx
  jrcxz quick_getppid
  lea -186(%rax), %ecx
  jrcxz quick_gettid
  .globl stub_entry_slow
stub_entry_slow:
  mov GS(P_RET), %rcx
  mov %rsp, GS(P_GUEST_RSP)
  mov GS(P_REGS), %rsp
  mov %r8, R8(%rsp)
  mov %r9, R9(%rsp)
  mov %r10, R10(%rsp)
  mov %r12, R12(%rsp)
  mov %r13, R13(%rsp)
  mov %r14, R14(%rsp)
  mov %r15, R15(%rsp)
  mov %rdi, RDI(%rsp)
  mov %rsi, RSI(%rsp)
  mov %rbp, RBP(%rsp)
  mov %rbx, RBX(%rsp)
  mov %rdx, RDX(%rsp)
  mov %rax, RAX(%rsp)
  mov %rcx, RCX(%rsp)
  mov %rcx, RIP(%rsp)
  pushfq
  pop %r11
  mov %r11, EFL(%rsp)
  mov %r11, R11(%rsp)
  mov GS(P_GUEST_RSP), %r11
  mov %r11, RSP(%rsp)
  cld
  mov %rsp, %rdi
  call stub_patched
  .globl stub_exit_patched
stub_exit_patched:
// A kick between here and stub_exit_last restarts here; only the fixed save area is read.
  .globl stub_exit_restart
stub_exit_restart:
  mov GS(P_REGS), %rsp
  mov GS(P_SLOT), %rax
  cmpq $0, GS(P_DELIVER)
  jne 2f
  cmpl $0, KICK(%rax)
  jne 3f
2:
  mov R8(%rsp), %r8
  mov R9(%rsp), %r9
  mov R10(%rsp), %r10
  mov R12(%rsp), %r12
  mov R13(%rsp), %r13
  mov R14(%rsp), %r14
  mov R15(%rsp), %r15
  mov RDI(%rsp), %rdi
  mov RSI(%rsp), %rsi
  mov RBP(%rsp), %rbp
  mov RBX(%rsp), %rbx
  mov RDX(%rsp), %rdx
  mov RAX(%rsp), %rax
  mov RIP(%rsp), %rcx
  mov R11(%rsp), %r11
  cmpq $0, GS(P_DELIVER)
  jne 4f
  push EFL(%rsp)
  popfq
  mov RSP(%rsp), %rsp
  .globl stub_exit_last
stub_exit_last:
  jmp *%rcx
4:
  mov RCX(%rsp), %rcx
  push EFL(%rsp)
  popfq
  mov RSP(%rsp), %rsp
// The host's frame for what cannot do without one. Not ud2: hypervisors look at that one, for 8 us.
  .globl stub_exit_break
stub_exit_break:
  int3
3:
  mov %rsp, %rdi
  call stub_patched_kick
  jmp stub_exit_restart

// Signal return. rsp: &UContext. A frame whose saved rip is in the stub leaves the flag to the frame outside it.
  .globl stub_restorer
  .globl stub_restorer_begin
  .globl stub_restorer_syscall
stub_restorer:
stub_restorer_begin:
  mov UC_RIP(%rsp), %rax
  sub $0x70000000, %rax
  cmp $0x20000, %rax
  jb 1f
  mov %rsp, %rax
  sub $0x71000000, %rax
  shr $15, %rax
  shl $16, %rax
  add $0x68000000, %rax
  cmpl $0, KICK(%rax)
  jne 2f
1:
  mov $15, %eax
stub_restorer_syscall:
  syscall
  ud2
2:
  mov %rsp, %rdi
  mov %rsp, %rbx
  call stub_frame_kick
  mov %rbx, %rsp
  jmp stub_restorer_begin

// rdi: the frame.
  .globl stub_sigreturn
stub_sigreturn:
  mov %rdi, %rsp
  jmp stub_restorer_begin

  .globl stub_copy
  .globl stub_copy_begin
  .globl stub_copy_end
  .globl stub_copy_fixup
  .globl stub_words_begin
  .globl stub_words_end
  .globl stub_words_fixup
stub_copy:
  mov %rdx, %rcx
  mov %edi, %eax
  sub %esi, %eax
  dec %eax
  and $4095, %eax
  cmp $63, %eax
  jb 1f
stub_copy_begin:
  rep movsb
stub_copy_end:
stub_copy_fixup:
  mov %rcx, %rax
  ret
// A few bytes up, modulo a page, Zen 3 and 4 take for an overlap: rep movsb is then 25 times as slow (vfs/bounce.h).
// After a fault the bytes from there on are tried again one by one, so that the count is exact.
1:
  sub $32, %rcx
  jb stub_words_fixup
stub_words_begin:
  mov (%rsi), %rax
  mov 8(%rsi), %rdx
  mov 16(%rsi), %r8
  mov 24(%rsi), %r9
  mov %rax, (%rdi)
  mov %rdx, 8(%rdi)
  mov %r8, 16(%rdi)
  mov %r9, 24(%rdi)
stub_words_end:
  add $32, %rsi
  add $32, %rdi
  jmp 1b
stub_words_fixup:
  add $32, %rcx
  jmp stub_copy_begin

  .globl stub_copy_string
  .globl stub_string_begin
  .globl stub_string_end
  .globl stub_string_fixup
stub_copy_string:
  xor %eax, %eax
1:
  cmp %rdx, %rax
  je 2f
stub_string_begin:
  movb (%rsi,%rax), %cl
stub_string_end:
  movb %cl, (%rdi,%rax)
  test %cl, %cl
  je 2f
  inc %rax
  jmp 1b
2:
  ret
stub_string_fixup:
  mov $-1, %rax
  ret

  .globl stub_store8
  .globl stub_store_begin
  .globl stub_store_end
  .globl stub_store_fixup
stub_store8:
  xor %eax, %eax
stub_store_begin:
  mov %rsi, (%rdi)
stub_store_end:
  ret
stub_store_fixup:
  mov $1, %eax
  ret

  .globl stub_cas4
  .globl stub_cas_begin
  .globl stub_cas_end
  .globl stub_cas_fixup
stub_cas4:
  mov %esi, %eax
  mov %rcx, %r8
stub_cas_begin:
  lock cmpxchg %edx, (%rdi)
stub_cas_end:
  mov %eax, (%r8)
  setne %al
  movzbl %al, %eax
  ret
stub_cas_fixup:
  mov $2, %eax
  ret

// i64 stub_blocking(nr, a, b, c, d, e, f, u32* kick)
  .globl stub_blocking
  .globl stub_blocking_begin
  .globl stub_blocking_syscall
  .globl stub_blocking_abort
stub_blocking:
  mov %rdi, %rax
  mov %rsi, %rdi
  mov %rdx, %rsi
  mov %rcx, %rdx
  mov %r8, %r10
  mov %r9, %r8
  mov 8(%rsp), %r9
  mov 16(%rsp), %r11
stub_blocking_begin:
  cmpl $0, (%r11)
  jne stub_blocking_abort
stub_blocking_syscall:
  syscall
  ret
stub_blocking_abort:
  mov $-4, %rax
  ret

// i64 stub_doorbell(kind, cookie)
  .globl stub_doorbell
stub_doorbell:
  mov $1000, %eax
  syscall
  ret

// i64 stub_clone_thread(flags, stack, parent_tid, child_tid, arg): the child pops arg from its new stack.
  .globl stub_clone_thread
stub_clone_thread:
  sub $16, %rsi
  mov %r8, (%rsi)
  mov %rcx, %r10
  xor %r8d, %r8d
  mov $56, %eax
  syscall
  test %rax, %rax
  je 1f
  ret
1:
  pop %rdi
  xor %ebp, %ebp
  sub $8, %rsp
  and $-16, %rsp
  call stub_child
  ud2

// stub_leave(u32* state): *state = kStateGone, exit(0). The stack may be another thread's after the store.
  .globl stub_leave
stub_leave:
  mov $60, %eax
  movl $STATE_GONE, (%rdi)
  xor %edi, %edi
  syscall
  ud2

  .globl memcpy
memcpy:
  mov %rdi, %rax
  mov %rdx, %rcx
  rep movsb
  ret
  .globl memset
memset:
  mov %rdi, %r8
  mov %esi, %eax
  mov %rdx, %rcx
  rep stosb
  mov %r8, %rax
  ret
  .section .note.GNU-stack,"",@progbits
