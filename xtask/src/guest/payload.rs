// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The vmlinux inside a bzImage (Linux `Documentation/arch/x86/boot.rst`, fields `payload_offset` and `payload_length`).

use anyhow::{Context, Result, bail};

use super::lz4_legacy;

/// Changes when the same bzImage would give another vmlinux.
pub(crate) const VERSION: &str = "1";

const SETUP_SECTS: usize = 0x1f1;
const HEADER: usize = 0x202;
const VERSION_FIELD: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// Unpacks the vmlinux.
pub(crate) fn vmlinux_of(image: &[u8]) -> Result<Vec<u8>> {
    if image.get(HEADER..HEADER + 4) != Some(b"HdrS") {
        bail!("this is no bzImage: \"HdrS\" is missing at 0x{HEADER:x}");
    }
    let version = u32_at(image, VERSION_FIELD)? & 0xffff;
    if version < 0x0208 {
        bail!("boot protocol 0x{version:04x} doesn't tell where the payload is: 0x0208 and later do");
    }
    let sectors = match image[SETUP_SECTS] {
        0 => 4,
        count => usize::from(count),
    };
    // The boot sector, then the set-up sectors, then the protected-mode code that the offset counts from.
    let start = (sectors + 1) * 512 + usize::try_from(u32_at(image, PAYLOAD_OFFSET)?)?;
    let length = usize::try_from(u32_at(image, PAYLOAD_LENGTH)?)?;
    let payload = start.checked_add(length).and_then(|end| image.get(start..end));
    let payload =
        payload.with_context(|| format!("the payload, {length} bytes from 0x{start:x}, is beyond the image's end"))?;
    let vmlinux = unpack(payload)?;
    if !vmlinux.starts_with(b"\x7fELF") {
        bail!("what the payload unpacks to is no ELF file");
    }
    Ok(vmlinux)
}

fn unpack(payload: &[u8]) -> Result<Vec<u8>> {
    // The build appends the unpacked size (Linux `scripts/Makefile.lib`, `size_append`); gzip has it of its own.
    let (packed, size) = payload.split_last_chunk::<4>().context("the payload is empty")?;
    let size = usize::try_from(u32::from_le_bytes(*size))?;
    let kind = match packed {
        [0x02, 0x21, 0x4c, 0x18, ..] => {
            let unpacked = lz4_legacy::unpack(packed)?;
            if unpacked.len() != size {
                bail!("the payload unpacks to {} bytes instead of {size}", unpacked.len());
            }
            return Ok(unpacked);
        }
        [0x7f, b'E', b'L', b'F', ..] => return Ok(payload.to_vec()),
        [0x1f, 0x8b, ..] => "gzip",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [b'B', b'Z', b'h', ..] => "bzip2",
        [0x5d, 0, 0, ..] => "lzma",
        [0x89, b'L', b'Z', b'O', ..] => "lzo",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        _ => "in an unknown way",
    };
    bail!("the payload is compressed {kind}: only LZ4, which Debian 12 uses, is unpacked here")
}

fn u32_at(image: &[u8], at: usize) -> Result<u32> {
    let bytes = image.get(at..).and_then(|rest| rest.first_chunk()).context("the image ends within its header")?;
    Ok(u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * 512 + 16];
        image[SETUP_SECTS] = 2;
        image[HEADER..HEADER + 4].copy_from_slice(b"HdrS");
        image[VERSION_FIELD..VERSION_FIELD + 2].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16_u32.to_le_bytes());
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(b"what follows");
        image
    }

    fn packed(content: &[u8]) -> Vec<u8> {
        let mut payload = lz4_legacy::pack(content);
        payload.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        payload
    }

    #[test]
    fn an_lz4_payload_is_unpacked() {
        let vmlinux = b"\x7fELF and what else a kernel has";
        assert_eq!(vmlinux_of(&image(&packed(vmlinux))).unwrap(), vmlinux);
    }

    #[test]
    fn another_compression_is_named() {
        let error = vmlinux_of(&image(b"\x28\xb5\x2f\xfd------")).unwrap_err().to_string();
        assert!(error.contains("zstd"), "{error}");
    }

    #[test]
    fn damage_is_an_error() {
        let good = image(&packed(b"\x7fELF"));
        assert!(vmlinux_of(&good[..0x230]).is_err());
        assert!(vmlinux_of(&good[..3 * 512 + 20]).is_err());
        assert!(vmlinux_of(b"\x7fELF").is_err());
        assert!(vmlinux_of(&image(&packed(b"no ELF"))).is_err());
        let mut wrong_size = packed(b"\x7fELF");
        *wrong_size.last_mut().unwrap() = 1;
        assert!(vmlinux_of(&image(&wrong_size)).is_err());
    }
}
