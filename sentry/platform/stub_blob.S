  .section .rodata
  .balign 4096
  .globl sbx_stub_blob
  .globl sbx_stub_blob_end
sbx_stub_blob:
  .incbin STUB_BLOB
sbx_stub_blob_end:
  .section .note.GNU-stack,"",@progbits
