// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How many of the host's processors there are for us.

/// Whether our threads and the guest's processors take turns on one of the host's.
pub(crate) fn is_one() -> bool {
    rustix::thread::sched_getaffinity(None).is_ok_and(|set| set.count() == 1)
}
