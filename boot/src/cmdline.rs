// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The kernel's command line: what may be in one, and what is in it.

use arch::layout;

/// Bytes that a kernel without a say in it takes: `COMMAND_LINE_SIZE` of Linux on x86, less the NUL.
pub const LIMIT: usize = 2047;
/// Bytes that there is room for, less the NUL.
const ROOM: usize = layout::CMDLINE_SPACE as usize - 1;

/// What is wrong with a command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It would end in the middle.
    #[error("has a NUL at byte {0}: the kernel would stop reading there")]
    Nul(usize),
    /// The kernel would cut it off.
    #[error("has {length} bytes and the kernel takes {limit}: make it shorter by {}", .length.saturating_sub(*.limit))]
    TooLong {
        /// Its bytes.
        length: usize,
        /// What the kernel takes.
        limit: usize,
    },
}

/// Checks that a kernel that takes `limit` bytes gets all of it.
///
/// # Errors
///
/// [`Error`] when it has a NUL or is too long.
pub fn check(cmdline: &[u8], limit: usize) -> Result<(), Error> {
    let limit = limit.min(ROOM);
    if let Some(at) = cmdline.iter().position(|byte| *byte == 0) {
        return Err(Error::Nul(at));
    }
    if cmdline.len() > limit {
        return Err(Error::TooLong { length: cmdline.len(), limit });
    }
    Ok(())
}

/// Whether the kernel will find a parameter of that name, with a value or without.
///
/// As the kernel reads it (kernel/params.c, `parse_args`): words end at white space outside of double quotes, a word
/// may start with a quote, a dash and an underscore are the same, and what follows `--` is for init.
pub fn has_parameter(cmdline: impl AsRef<[u8]>, name: &str) -> bool {
    words(cmdline.as_ref())
        .map(|word| word.strip_prefix(b"\"").unwrap_or(word))
        .take_while(|word| *word != b"--")
        .any(|word| same(parameter(word), name.as_bytes()))
}

/// The part of a word before the first `=` that isn't its first byte.
fn parameter(word: &[u8]) -> &[u8] {
    let end = word.iter().skip(1).position(|byte| *byte == b'=').map(|at| at.saturating_add(1));
    end.and_then(|end| word.get(..end)).unwrap_or(word)
}

fn same(left: &[u8], right: &[u8]) -> bool {
    let dash = |byte: &u8| if *byte == b'-' { b'_' } else { *byte };
    left.iter().map(dash).eq(right.iter().map(dash))
}

/// White space to the kernel: ASCII's, vertical tab, and the no-break space of Latin-1 (lib/ctype.c).
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r' | 0xa0)
}

/// The words of a command line, quotes and all.
fn words(cmdline: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    cmdline
        .split(move |byte| {
            quoted ^= *byte == b'"';
            !quoted && is_space(*byte)
        })
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_as_the_kernel_finds_it() {
        let cases: &[(&str, &str, bool)] = &[
            ("", "root", false),
            ("root=/dev/vda", "root", true),
            ("root", "root", true),
            ("console=ttyS0 root=/dev/vda rw", "root", true),
            ("console=ttyS0\troot=/dev/vda\n", "root", true),
            ("rootwait", "root", false),
            ("rootfstype=ext4 xroot=1", "root", false),
            ("root =/dev/vda", "root", true),
            ("=root=1", "root", false),
            ("=", "root", false),
            ("systemd.unit=\"root=1 root=2\"", "root", false),
            ("dyndbg=\"file a.c +p; root=1\" root=2", "root", true),
            ("a=\"b\\\" root=1", "root", true),
            ("a=\"unclosed root=1", "root", false),
            ("\"root=/dev/v da\"", "root", true),
            ("a\"b c\"d root=1", "root", true),
            ("quiet -- root=/dev/vda", "root", false),
            ("quiet --root=/dev/vda", "root", false),
            ("a=\"x -- y\" root=1", "root", true),
            ("earlycon-x=1", "earlycon_x", true),
            ("earlycon_x=1", "earlycon-x", true),
            ("ROOT=1", "root", false),
        ];
        for (cmdline, name, found) in cases {
            assert_eq!(has_parameter(cmdline, name), *found, "{name} in {cmdline}");
        }
        assert!(has_parameter(b"a\xa0root=1".as_slice(), "root"));
    }

    #[test]
    fn what_the_kernel_would_cut_off_is_refused() {
        assert_eq!(check(b"", 0), Ok(()));
        assert_eq!(check(&[b'a'; 2047], LIMIT), Ok(()));
        assert_eq!(
            check(&[b'a'; 2049], LIMIT).unwrap_err().to_string(),
            "has 2049 bytes and the kernel takes 2047: make it shorter by 2"
        );
        assert_eq!(check(&[b'a'; 0x1_0000], usize::MAX), Err(Error::TooLong { length: 0x1_0000, limit: 0xffff }));
        assert_eq!(check(b"ab\0c", LIMIT), Err(Error::Nul(2)));
    }
}
