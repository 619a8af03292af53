// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The i8042's reset line, and nothing else of it: the ACPI tables say that there is no keyboard controller, so no guest
//! probes for one, but `reboot=k` still pulses the line.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::{I8042Device, Trigger};

use crate::bus::BusDevice;
use crate::power::{PowerRequest, PowerSink};

#[derive(Debug)]
struct ResetLine(Arc<dyn PowerSink>);

impl Trigger for ResetLine {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.request(PowerRequest::Reset);
        Ok(())
    }
}

/// An i8042 that can only reset the machine.
#[derive(Debug)]
pub struct I8042(Mutex<I8042Device<ResetLine>>);

impl I8042 {
    /// A controller whose reset line goes to `sink`.
    pub fn new(sink: Arc<dyn PowerSink>) -> Self {
        Self(Mutex::new(I8042Device::new(ResetLine(sink))))
    }
}

impl BusDevice for I8042 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let mut device = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Ok(offset), Some(first)) = (u8::try_from(offset), data.first_mut()) {
            *first = device.read(offset);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut device = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Ok(offset), Some(&first)) = (u8::try_from(offset), data.first()) {
            let Ok(()) = device.write(offset, first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::tests::Requests;

    #[test]
    fn only_the_reset_command_resets() {
        let requests = Arc::new(Requests::default());
        let i8042 = I8042::new(requests.clone());
        for offset in 0..=4 {
            for value in 0..=255 {
                i8042.write(offset, &[value]);
            }
        }
        i8042.write(u64::MAX, &[0xfe]);
        assert_eq!(*requests.0.lock().unwrap(), [PowerRequest::Reset]);
    }

    #[test]
    fn the_status_port_says_that_nothing_is_pending() {
        let i8042 = I8042::new(Arc::new(Requests::default()));
        let mut data = [0xff; 4];
        i8042.read(4, &mut data);
        assert_eq!(data, [0; 4]);
    }
}
