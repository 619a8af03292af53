// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is sent: bytes that the other side knows, so that it can compare each of them.

use std::io::{Error, Read, Result, Write};

/// A prime number: what is lost, comes twice or comes in another order is seen unless it is a multiple of so many bytes.
const PERIOD: usize = 1_048_573;
/// Of one system call.
const CHUNK: usize = 128 << 10;

/// Bytes that don't repeat before their end, and then do.
pub(crate) struct Pattern(Vec<u8>);

impl Pattern {
    pub(crate) fn new() -> Self {
        // Marsaglia, "Xorshift RNGs", 2003.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let words = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        let mut bytes: Vec<u8> = words.flatten().take(PERIOD).collect();
        // A chunk may begin anywhere.
        bytes.extend_from_within(..CHUNK);
        Self(bytes)
    }

    fn chunk(&self, position: u64, length: u64) -> &[u8] {
        let begin = (position % PERIOD as u64) as usize;
        &self.0[begin..begin + length.min(CHUNK as u64) as usize]
    }

    /// Sends so many bytes.
    pub(crate) fn write(&self, to: &mut impl Write, bytes: u64) -> Result<()> {
        let mut position = 0;
        while position < bytes {
            let chunk = self.chunk(position, bytes - position);
            to.write_all(chunk)?;
            position += chunk.len() as u64;
        }
        Ok(())
    }

    /// Takes so many bytes, and compares them.
    pub(crate) fn read(&self, from: &mut impl Read, bytes: u64) -> Result<()> {
        let (mut position, mut buffer) = (0, vec![0; CHUNK]);
        while position < bytes {
            let room = (bytes - position).min(CHUNK as u64) as usize;
            let length = from.read(&mut buffer[..room])?;
            if length == 0 {
                return Err(Error::other(format!("there were {position} bytes instead of {bytes}")));
            }
            let expected = self.chunk(position, length as u64);
            if buffer[..length] != *expected {
                let at = buffer.iter().zip(expected).position(|(got, expected)| got != expected).unwrap_or(0);
                return Err(Error::other(format!("byte {} is another one than was sent", position + at as u64)));
            }
            position += length as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read_and_nothing_else_is() {
        let pattern = Pattern::new();
        let bytes = 2 * PERIOD as u64 + 100;
        let mut sent = Vec::new();
        pattern.write(&mut sent, bytes).unwrap();
        assert_eq!(sent.len() as u64, bytes);
        pattern.read(&mut sent.as_slice(), bytes).unwrap();
        let said = |sent: &[u8]| pattern.read(&mut &*sent, bytes).unwrap_err().to_string();
        assert_eq!(said(&sent[..1000]), format!("there were 1000 bytes instead of {bytes}"));
        sent[PERIOD + 5] ^= 1;
        assert_eq!(said(&sent), format!("byte {} is another one than was sent", PERIOD + 5));
        sent[PERIOD + 5] ^= 1;
        sent.remove(1448);
        assert!(said(&sent).contains("is another one than was sent"));
    }
}
