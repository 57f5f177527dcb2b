//! What a built program tells of itself: for which machine it is, and which C library it wants.

use anyhow::{Result, bail};

/// Of an ELF program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// As Debian names it: `amd64`, `arm64`, …
    pub architecture: &'static str,
    /// The least version of glibc, `2.34`; none: linked statically.
    pub glibc: Option<String>,
}

/// Reads the program's header and the names of symbol versions in it.
///
/// # Errors
/// Where it is no ELF program for a machine that packages are made for.
pub fn examine(program: &[u8]) -> Result<Program> {
    if !program.starts_with(b"\x7fELF") || program.len() < 64 {
        bail!("is no ELF program");
    }
    // e_machine, in the byte order of all machines below.
    let architecture = match u16::from_le_bytes([program[18], program[19]]) {
        0x3e => "amd64",
        0xb7 => "arm64",
        0x28 => "armhf",
        0xf3 => "riscv64",
        other => bail!("is for machine {other:#x}: packages are made for amd64, arm64, armhf and riscv64"),
    };
    let newest = program.windows(8).enumerate().filter(|(_, window)| *window == b"GLIBC_2.").filter_map(|(at, _)| {
        let digits = program[at + 8..].iter().take(3).take_while(|byte| byte.is_ascii_digit());
        digits.map(|digit| char::from(*digit)).collect::<String>().parse::<u32>().ok()
    });
    Ok(Program { architecture, glibc: newest.max().map(|minor| format!("2.{minor}")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(machine: u8, rest: &[u8]) -> Vec<u8> {
        let mut program = b"\x7fELF".to_vec();
        program.resize(64, 0);
        program[18] = machine;
        program.extend(rest);
        program
    }

    #[test]
    fn machine_and_c_library_are_read_from_the_program() {
        let read = |program: &[u8]| examine(program).unwrap();
        let dynamic = read(&elf(0x3e, b"\0GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.2.5\0"));
        assert_eq!(dynamic, Program { architecture: "amd64", glibc: Some("2.34".to_owned()) });
        assert_eq!(read(&elf(0xb7, b"")), Program { architecture: "arm64", glibc: None });
        assert!(examine(b"#!/bin/sh").is_err() && examine(&elf(0x15, b"")).is_err());
    }
}
