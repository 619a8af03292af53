// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A qcow2 image made by hand: empty, on top of a raw one (QEMU docs/interop/qcow2.rst).

const CLUSTER: usize = 1 << 16;

/// An image of `size` bytes with nothing in it but the name of the raw one behind it. It can only be read: it has no refcounts.
pub(crate) fn on_top_of(backing: &str, size: u64) -> Vec<u8> {
    let mut image = vec![0; 2 * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let name_at = 256;
    put(0, b"QFI\xfb");
    put(4, &3u32.to_be_bytes());
    put(8, &(name_at as u64).to_be_bytes());
    put(16, &(backing.len() as u32).to_be_bytes());
    put(20, &CLUSTER.ilog2().to_be_bytes());
    put(24, &size.to_be_bytes());
    // The table of tables: one entry, of a table that isn't there.
    put(36, &1u32.to_be_bytes());
    put(40, &(CLUSTER as u64).to_be_bytes());
    // Refcounts of 16 bits, a header of 104 bytes, and behind it the extension that names the format.
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    put(104, &0xe279_2acau32.to_be_bytes());
    put(108, &3u32.to_be_bytes());
    put(112, b"raw");
    put(name_at, backing.as_bytes());
    image
}
