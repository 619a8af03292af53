// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A buffer of ours whose address the host's direct I/O takes, for guest buffers whose addresses it doesn't.

/// Bytes at an aligned address. They are zero until they are written, so that nothing of ours reaches a guest.
#[derive(Debug)]
pub(crate) struct AlignedBuffer {
    bytes: Box<[u8]>,
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// `len` bytes at a multiple of `alignment`, a power of two.
    pub(crate) fn new(len: usize, alignment: usize) -> Self {
        let bytes = vec![0; len.saturating_add(alignment)].into_boxed_slice();
        let start = bytes.as_ptr().align_offset(alignment).min(alignment);
        Self { bytes, start, len }
    }

    /// All of it.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        let end = self.start.saturating_add(self.len);
        self.bytes.get_mut(self.start..end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_its_length_and_alignment() {
        for alignment in [1, 4, 512, 4096] {
            let mut buffer = AlignedBuffer::new(1000, alignment);
            let bytes = buffer.bytes();
            assert_eq!((bytes.len(), bytes.as_ptr().addr() % alignment), (1000, 0));
        }
    }
}
