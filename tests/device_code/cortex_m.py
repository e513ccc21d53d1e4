"""A Cortex-M3 in QEMU that runs a program of C without a C library, and says how it ended."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

GCC, CLANG, QEMU = (shutil.which(name) for name in ("arm-none-eabi-gcc", "clang", "qemu-system-arm"))
_CPU = ["-mcpu=cortex-m3", "-mthumb", "-Os", "-ffreestanding", "-Wall", "-Wextra", "-Werror"]
# The board mps2-an385: code at 0, memory at 0x20000000.
_LAYOUT = """
ENTRY(reset)
SECTIONS {
  .text 0x0 : { KEEP(*(.vectors)) *(.text*) *(.rodata*) *(.ARM.*) }
  .data 0x20000000 : AT(ADDR(.text) + SIZEOF(.text)) { data = .; *(.data*) . = ALIGN(4); data_end = .; }
  data_load = LOADADDR(.data);
  .bss : { bss = .; *(.bss*) *(COMMON) . = ALIGN(4); bss_end = .; }
  stack = 0x20300000;
}
"""
_START = """
#include <stddef.h>
#include <stdint.h>
extern uint32_t data, data_end, data_load, bss, bss_end, stack;
int main(void);
void reset(void);
__attribute__((section(".vectors"), used)) static const void *const vectors[2] = {&stack, (const void *)reset};
void *memcpy(void *to, const void *from, size_t n) {
  for (size_t i = 0; i < n; ++i) ((volatile uint8_t *)to)[i] = ((const uint8_t *)from)[i];
  return to;
}
void *memset(void *to, int value, size_t n) {
  for (size_t i = 0; i < n; ++i) ((volatile uint8_t *)to)[i] = (uint8_t)value;
  return to;
}
/* Semihosting's SYS_EXIT_EXTENDED: the emulator ends with this status. */
static void end(uint32_t status) {
  volatile uint32_t block[2] = {0x20026, status};
  register uint32_t call __asm__("r0") = 0x20;
  register volatile uint32_t *argument __asm__("r1") = block;
  __asm__ volatile("bkpt 0xab" : : "r"(call), "r"(argument) : "memory");
  for (;;) {}
}
void reset(void) {
  for (uint32_t *to = &data, *from = &data_load; to < &data_end;) *to++ = *from++;
  for (uint32_t *to = &bss; to < &bss_end;) *to++ = 0;
  end((uint32_t)main());
}
"""


def run(sources: list[Path], include: Path, place: Path, compiler: str) -> int:
    """Compiles sources (with ``gcc`` or ``clang``), links them and returns the status that the program ends with."""
    (place / "start.c").write_text(_START)
    (place / "layout.ld").write_text(_LAYOUT)
    command = [GCC] if compiler == "gcc" else [CLANG, "--target=arm-none-eabi"]
    objects = []
    for source in (*sources, place / "start.c"):
        objects.append(str(place / f"{source.stem}.o"))
        subprocess.run(
            [*command, "-std=gnu99", *_CPU, f"-I{include}", "-c", str(source), "-o", objects[-1]], check=True
        )
    program = place / "program.elf"
    link = [GCC, "-mcpu=cortex-m3", "-mthumb", "-nostdlib", f"-T{place / 'layout.ld'}"]
    subprocess.run([*link, *objects, "-lgcc", "-o", str(program)], check=True)
    machine = ["-M", "mps2-an385", "-nographic", "-semihosting-config", "enable=on,target=native"]
    done = subprocess.run([QEMU, *machine, "-kernel", str(program)], capture_output=True, timeout=60, check=False)
    return done.returncode
