// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How many of the host's processors there are for us.

use std::mem::{MaybeUninit, size_of};

/// Processors that this thread, and those that it makes, may run on; 0 when the kernel doesn't say.
pub(crate) fn count() -> usize {
    let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: the set lives on this stack during the call, which writes at most the size that it is told.
    let failed = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr()) };
    if failed != 0 {
        // More processors than a set holds.
        return 0;
    }
    // SAFETY: all bytes of the set were zero, a value of it, and the kernel has written some of them.
    let set = unsafe { set.assume_init() };
    // SAFETY: it only reads the set, which is whole.
    let count = unsafe { libc::CPU_COUNT(&set) };
    usize::try_from(count).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_at_least_the_one_that_runs_this() {
        assert!(super::count() > 0);
    }
}
