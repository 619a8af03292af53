// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What this process has taken of the processor.

#![expect(unsafe_code, reason = "system calls take raw pointers")]

use std::io::{Error, Result};
use std::time::Duration;

/// Processor time so far, in user and in kernel mode.
pub(crate) fn processor_time() -> Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec to a place that lives until the call is over.
    if unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) } == -1 {
        return Err(Error::last_os_error());
    }
    Ok(Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32))
}
