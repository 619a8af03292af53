// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The last output of a port: what its reader still has to get, and what one who comes late is shown.

use std::collections::VecDeque;

/// The most that is kept, in bytes.
pub(super) const CAPACITY: usize = 64 << 10;

/// Bytes in the order in which they came; the first ones may have been sent already. It never has more than [`CAPACITY`].
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: VecDeque<u8>,
    /// How many of them, from the first on, were sent.
    sent: usize,
}

impl Backlog {
    /// Appends bytes; what there is no room for is lost, the oldest first. Gives how many were lost that were not sent.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        let over = self.bytes.len().saturating_add(bytes.len()).saturating_sub(CAPACITY);
        let old = over.min(self.bytes.len());
        self.bytes.drain(..old);
        self.bytes.extend(bytes.get(over.saturating_sub(old)..).unwrap_or_default());
        let lost = over.saturating_sub(self.sent);
        self.sent = self.sent.saturating_sub(over);
        lost
    }

    /// How many bytes can be appended before one is lost that was not sent.
    pub(super) fn room(&self) -> usize {
        CAPACITY.saturating_sub(self.bytes.len().saturating_sub(self.sent))
    }

    /// What is to be sent next, or a part of it; nothing when all was sent.
    pub(super) fn unsent(&self) -> &[u8] {
        let (first, second) = self.bytes.as_slices();
        match first.get(self.sent..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => second.get(self.sent.saturating_sub(first.len())..).unwrap_or_default(),
        }
    }

    /// So many bytes of [`Self::unsent`] were sent.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes).min(self.bytes.len());
    }

    /// Somebody else reads: all that is kept is to be sent again.
    pub(super) fn rewind(&mut self) {
        self.sent = 0;
    }

    /// Everything counts as sent: there is nobody to send it to.
    pub(super) fn skip(&mut self) {
        self.sent = self.bytes.len();
    }

    /// Keeps only what was not sent.
    pub(super) fn forget_sent(&mut self) {
        self.bytes.drain(..self.sent.min(self.bytes.len()));
        self.sent = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(backlog: &mut Backlog) -> Vec<u8> {
        let mut all = Vec::new();
        while !backlog.unsent().is_empty() {
            all.extend_from_slice(backlog.unsent());
            backlog.advance(backlog.unsent().len());
        }
        all
    }

    #[test]
    fn the_last_bytes_are_kept_and_sent_again_to_each_who_comes() {
        let mut backlog = Backlog::default();
        let sent: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8).collect();
        for piece in sent.chunks(777) {
            backlog.push(piece);
        }
        for _ in 0..2 {
            backlog.rewind();
            assert_eq!(all(&mut backlog), sent[200_000 - CAPACITY..]);
        }
        backlog.push(b"more");
        assert_eq!(all(&mut backlog), b"more");
        backlog.skip();
        assert!(backlog.unsent().is_empty());
    }

    #[test]
    fn what_is_lost_before_it_was_sent_is_counted_and_nothing_else() {
        let mut backlog = Backlog::default();
        assert_eq!(backlog.push(&[1; CAPACITY]), 0);
        assert_eq!(backlog.room(), 0);
        assert_eq!(backlog.push(&[2; 10]), 10);
        backlog.advance(100);
        assert_eq!(backlog.room(), 100);
        assert_eq!(backlog.push(&[3; 100]), 0);
        assert_eq!(backlog.push(&[4; 2 * CAPACITY]), 2 * CAPACITY);
        assert_eq!(all(&mut backlog), [4; CAPACITY]);
    }

    #[test]
    fn what_was_sent_can_be_forgotten() {
        let mut backlog = Backlog::default();
        backlog.push(b"sent and kept");
        backlog.advance(9);
        backlog.forget_sent();
        backlog.rewind();
        assert_eq!(all(&mut backlog), b"kept");
    }
}
