// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Memory that is touched and freed again, and data that is made durable.

use std::fs::File;
use std::hint::black_box;
use std::io::{Result, Write, stdin};

const PAGE: usize = 4096;

/// Touches so many bytes, and frees them when there is a line to read.
pub(crate) fn touch(bytes: u64) -> Result<()> {
    let mut memory = vec![0u8; usize::try_from(bytes).map_err(std::io::Error::other)?];
    // Each page is another one, so that no two of them can be made one.
    for (number, page) in memory.chunks_mut(PAGE).enumerate() {
        if let Some(start) = page.first_chunk_mut::<8>() {
            *start = (number as u64 + 1).to_le_bytes();
        }
    }
    let memory = black_box(memory);
    println!("agent: touched {bytes}");
    stdin().read_line(&mut String::new())?;
    drop(memory);
    println!("agent: freed {bytes}");
    Ok(())
}

/// Writes a page and makes that durable, again and again.
pub(crate) fn fsync(path: &str, count: u64) -> Result<()> {
    let mut file = File::options().create(true).append(true).open(path)?;
    for number in 0..count {
        file.write_all(&[number as u8; PAGE])?;
        file.sync_all()?;
    }
    Ok(())
}
