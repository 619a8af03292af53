// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The line by which a test knows that user space was reached.

use crate::sys;

/// Prints the line. What follows the colon is for people.
pub(crate) fn say() {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = uptime.split(' ').next().unwrap_or_default();
    println!(
        "hello from the guest: Linux {}, init reached {seconds} s after the kernel started",
        sys::kernel_release()
    );
}
