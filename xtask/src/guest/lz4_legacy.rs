// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! LZ4's legacy frame, the one that the kernel's build uses (lz4 `doc/lz4_Frame_format.md`, "Legacy frame").

use anyhow::{Context, Result, bail};

/// The first four bytes, little-endian.
pub(crate) const MAGIC: u32 = 0x184c_2102;
/// Every block but the last one holds so much once it is unpacked.
const BLOCK: usize = 8 << 20;

/// Unpacks a frame that reaches to the end of `frame`.
pub(crate) fn unpack(frame: &[u8]) -> Result<Vec<u8>> {
    let (magic, mut rest) = take_u32(frame).context("the LZ4 frame is empty")?;
    if magic != MAGIC {
        bail!("0x{magic:08x} doesn't begin a legacy LZ4 frame: that would be 0x{MAGIC:08x}");
    }
    let mut unpacked = Vec::new();
    let mut block = vec![0; BLOCK];
    while let Some((length, after)) = take_u32(rest) {
        if length == MAGIC {
            // Frames may follow each other.
            rest = after;
            continue;
        }
        let length = usize::try_from(length)?;
        let Some((packed, after)) = after.split_at_checked(length) else {
            bail!("an LZ4 block of {length} bytes is cut off after {}", after.len());
        };
        let size = lz4_flex::block::decompress_into(packed, &mut block)
            .with_context(|| format!("a damaged LZ4 block, after {} bytes of output", unpacked.len()))?;
        unpacked.extend_from_slice(&block[..size]);
        rest = after;
    }
    if !rest.is_empty() {
        bail!("{} stray bytes behind the last LZ4 block", rest.len());
    }
    Ok(unpacked)
}

fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (first, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*first), rest))
}

#[cfg(test)]
pub(crate) fn pack(content: &[u8]) -> Vec<u8> {
    let mut frame = MAGIC.to_le_bytes().to_vec();
    for block in content.chunks(BLOCK) {
        let packed = lz4_flex::block::compress(block);
        frame.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
        frame.extend(packed);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_blocks_come_back_as_they_were() {
        let content: Vec<u8> = (0..BLOCK + 12345).map(|i| (i / 7 % 251) as u8).collect();
        assert!(unpack(&pack(&content)).unwrap() == content);
        assert!(unpack(&pack(&[])).unwrap().is_empty());
    }

    #[test]
    fn damage_is_an_error() {
        let frame = pack(b"some content, some content, some content");
        assert!(unpack(&frame[..frame.len() - 1]).is_err());
        assert!(unpack(&frame[1..]).is_err());
        assert!(unpack(&[]).is_err());
        let mut stray = frame.clone();
        stray.push(0);
        assert!(unpack(&stray).is_err());
        let mut damaged = frame;
        damaged[8] = 0xff;
        assert!(unpack(&damaged).is_err());
    }
}
