// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Just enough of ELF to find a section by name in a 64-bit little-endian file (System V ABI, "Sections").

/// The content of the section.
pub(crate) fn section<'a>(file: &'a [u8], name: &str) -> Option<&'a [u8]> {
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = number(file, 0x28, 8)?;
    let entry_size = number(file, 0x3a, 2)?;
    let count = number(file, 0x3c, 2)?;
    let names_index = number(file, 0x3e, 2)?;
    let header = |index: usize| file.get(table.checked_add(index.checked_mul(entry_size)?)?..);
    let content = |header: &[u8]| {
        let start = number(header, 0x18, 8)?;
        file.get(start..start.checked_add(number(header, 0x20, 8)?)?)
    };
    let names = content(header(names_index)?)?;
    (0..count).filter_map(header).find_map(|header| {
        let own = names.get(number(header, 0, 4)?..)?;
        let matches = own.strip_prefix(name.as_bytes())?.first() == Some(&0);
        if matches { content(header) } else { None }
    })
}

fn number(bytes: &[u8], at: usize, size: usize) -> Option<usize> {
    let field = bytes.get(at..at.checked_add(size)?)?;
    let value = field.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    usize::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_of_this_very_program_are_found() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(section(&file, ".text").is_some_and(|text| text.len() > 1000));
        assert!(section(&file, ".tex").is_none());
        assert!(section(&file[..file.len() / 2], ".text").is_none());
        assert!(section(b"#!/bin/sh", ".text").is_none());
    }
}
