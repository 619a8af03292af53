// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! pvpanic: one port by which a guest's kernel says that it has panicked (QEMU docs/specs/pvpanic.rst).
//!
//! The guest controls the byte that it writes. All that it can cause is a request to end its own VM, and a log line at the 1st,
//! 2nd, 4th, 8th… time.

use std::sync::Arc;

use crate::bus::BusDevice;
use crate::power::{PowerRequest, PowerSink};
use crate::throttle::Throttle;

/// The kernel has panicked, and nothing in the guest will do anything about it.
const PANICKED: u8 = 1 << 0;
/// The kernel has panicked, and a crash kernel takes over.
const CRASH_LOADED: u8 = 1 << 1;
/// The guest has shut down.
const SHUTDOWN: u8 = 1 << 2;

/// The device.
#[derive(Debug)]
pub struct PvPanic {
    sink: Arc<dyn PowerSink>,
    crash_kernels: Throttle,
}

impl PvPanic {
    /// A device that passes on what it is told.
    pub fn new(sink: Arc<dyn PowerSink>) -> Self {
        Self { sink, crash_kernels: Throttle::new() }
    }
}

impl BusDevice for PvPanic {
    /// Reads tell which events there are.
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(first) = data.first_mut() {
            *first = PANICKED | CRASH_LOADED | SHUTDOWN;
        }
    }

    /// Of several events in one byte the first one counts.
    fn write(&self, _: u64, data: &[u8]) {
        let Some(&events) = data.first() else { return };
        if events & PANICKED != 0 {
            self.sink.request(PowerRequest::Panicked);
        } else if events & CRASH_LOADED != 0 {
            if let Some(times) = self.crash_kernels.hit() {
                tracing::warn!(times, "the guest's kernel has panicked, and its crash kernel takes over");
            }
        } else if events & SHUTDOWN != 0 {
            self.sink.request(PowerRequest::Off);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::tests::Requests;

    #[test]
    fn each_byte_asks_for_what_its_lowest_event_is() {
        for value in 0..=255u8 {
            let requests = Arc::new(Requests::default());
            let panic = PvPanic::new(requests.clone());
            panic.write(0, &[value]);
            let expected = match value & 7 {
                1 | 3 | 5 | 7 => vec![PowerRequest::Panicked],
                4 => vec![PowerRequest::Off],
                _ => vec![],
            };
            assert_eq!(*requests.0.lock().unwrap(), expected, "{value}");
            assert_eq!(panic.crash_kernels.times(), u64::from(matches!(value & 7, 2 | 6)));
        }
    }

    #[test]
    fn a_read_tells_the_events_and_odd_widths_have_an_answer() {
        let panic = PvPanic::new(Arc::new(Requests::default()));
        for width in 0..=8 {
            let mut data = vec![0xff; width];
            panic.read(0, &mut data);
            assert_eq!(data.first().copied().unwrap_or(7), 7);
            assert!(data.iter().skip(1).all(|byte| *byte == 0));
        }
        panic.write(0, &[]);
    }
}
