// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The host's side of a queue pair.

use std::time::Duration;

/// The pause before the first try to connect again.
pub const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The pause that others grow to.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5);
