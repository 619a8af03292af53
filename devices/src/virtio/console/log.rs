// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A file beside a port that gets all of its output, up to a bound.

use std::fs::File;
use std::io::Write;

/// The most that a VM adds to a log, in bytes: a guest can't fill the host.
pub const MAX_LOG: u64 = 64 << 20;

/// The file, and how much more it gets.
#[derive(Debug)]
pub(super) struct Log {
    file: Option<File>,
    left: u64,
}

impl Log {
    pub(super) fn new(file: Option<File>) -> Self {
        Self { file, left: MAX_LOG }
    }

    /// Adds bytes. After the first failure and beyond the bound, nothing more is added, and that is said once. `port` is what
    /// it is called in log lines.
    pub(super) fn write(&mut self, bytes: &[u8], device: &str, port: &str) {
        let Some(file) = &mut self.file else { return };
        let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let result = file.write_all(bytes.get(..len).unwrap_or_default());
        self.left = self.left.saturating_sub(u64::try_from(len).unwrap_or(u64::MAX));
        match result {
            Err(error) => tracing::warn!(device, port, "its log has ended: {error}"),
            Ok(()) if len < bytes.len() => {
                tracing::warn!(device, port, "its log has ended: it has got {MAX_LOG} bytes")
            }
            Ok(()) => return,
        }
        self.file = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_gets_so_much_and_no_more() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut log = Log { file: Some(file.reopen().unwrap()), left: 10 };
        for _ in 0..5 {
            log.write(b"abcd", "d", "p");
        }
        assert_eq!(std::fs::read(file.path()).unwrap(), b"abcdabcdab");
    }
}
