// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Power management: the registers that ACPI's hardware-reduced mode needs, and the power button.
//!
//! The guest controls which byte it writes to four registers. All that it can cause is a request to end its own VM.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::bus::BusDevice;
use crate::interrupt::InterruptLine;

/// What a guest asks of whoever runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// Soft off: ACPI sleep state S5.
    Off,
    /// A reset of the whole machine.
    Reset,
    /// Nothing: its kernel has panicked, and says so.
    Panicked,
    /// Nothing, and for longer than its watchdog was set to wait.
    Watchdog,
}

/// Takes power requests. Called on a vCPU's thread, so it must not block.
pub trait PowerSink: Debug + Send + Sync {
    /// The guest asks for `request`. The vCPU that asked runs on until it is stopped.
    fn request(&self, request: PowerRequest);
}

/// Where the registers lie and what values mean; the ACPI tables tell the guest the same.
#[derive(Clone, Copy, Debug)]
pub struct PowerRegisters {
    /// Offset of the sleep control register (ACPI 6.5 §4.8.3.7).
    pub sleep_control: u16,
    /// Offset of the sleep status register.
    pub sleep_status: u16,
    /// Offset of the reset register.
    pub reset: u16,
    /// The value that resets.
    pub reset_value: u8,
    /// Offset of the event register: a bit an event, cleared by reading.
    pub events: u16,
    /// The sleep type of S5.
    pub sleep_type_s5: u8,
    /// The event bit of the power button.
    pub power_button: u8,
}

/// Bit of the sleep control register that starts the transition.
const SLP_EN: u8 = 1 << 5;
/// The sleep type's place in the sleep control register.
const SLP_TYP_SHIFT: u32 = 2;
const SLP_TYP_MASK: u8 = 0x7;

/// The power management device.
#[derive(Debug)]
pub struct Power {
    registers: PowerRegisters,
    sink: Arc<dyn PowerSink>,
    line: Box<dyn InterruptLine>,
    /// Events that the guest has not read yet.
    events: AtomicU8,
}

impl Power {
    /// A device whose event interrupt is `line`.
    pub fn new(registers: PowerRegisters, sink: Arc<dyn PowerSink>, line: Box<dyn InterruptLine>) -> Self {
        Self { registers, sink, line, events: AtomicU8::new(0) }
    }

    /// Presses and releases the power button. What the guest does about it is its own affair.
    pub fn press_power_button(&self) {
        self.raise(self.registers.power_button);
    }

    /// Tells the guest of events, by their bits in the event register.
    pub fn raise(&self, events: u8) {
        self.events.fetch_or(events, Ordering::AcqRel);
        self.line.trigger();
    }
}

impl BusDevice for Power {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset == u64::from(self.registers.events)
            && let Some(first) = data.first_mut()
        {
            *first = self.events.swap(0, Ordering::AcqRel);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        let sleep_type = (value >> SLP_TYP_SHIFT) & SLP_TYP_MASK;
        if offset == u64::from(self.registers.sleep_control)
            && value & SLP_EN != 0
            && sleep_type == self.registers.sleep_type_s5
        {
            self.sink.request(PowerRequest::Off);
        } else if offset == u64::from(self.registers.reset) && value == self.registers.reset_value {
            self.sink.request(PowerRequest::Reset);
        }
    }

    fn reset(&self) {
        self.events.store(0, Ordering::Release);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex;

    use vmm_sys_util::eventfd::EventFd;

    use super::*;

    #[derive(Debug, Default)]
    pub(crate) struct Requests(pub(crate) Mutex<Vec<PowerRequest>>);

    impl PowerSink for Requests {
        fn request(&self, request: PowerRequest) {
            self.0.lock().unwrap().push(request);
        }
    }

    const REGISTERS: PowerRegisters = PowerRegisters {
        sleep_control: 0,
        sleep_status: 1,
        reset: 2,
        reset_value: 1,
        events: 4,
        sleep_type_s5: 5,
        power_button: 1,
    };

    fn power() -> (Power, Arc<Requests>, EventFd) {
        let (requests, line) = (Arc::new(Requests::default()), EventFd::new(libc::EFD_NONBLOCK).unwrap());
        (Power::new(REGISTERS, requests.clone(), Box::new(line.try_clone().unwrap())), requests, line)
    }

    #[test]
    fn only_the_announced_values_end_the_machine() {
        let (power, requests, _) = power();
        for offset in 0..8 {
            for value in 0..=255u8 {
                power.write(offset, &[value]);
            }
        }
        power.write(0, &[]);
        let seen = std::mem::take(&mut *requests.0.lock().unwrap());
        let off = seen.iter().filter(|r| **r == PowerRequest::Off).count();
        // SLP_EN and the type are fixed; two low bits and two high ones are ignored.
        assert_eq!((off, seen.len()), (16, 17));
        power.write(0, &[5 << 2 | 1 << 5]);
        power.write(2, &[1]);
        assert_eq!(*requests.0.lock().unwrap(), [PowerRequest::Off, PowerRequest::Reset]);
    }

    #[test]
    fn a_reset_forgets_what_was_not_read() {
        let (power, _, _) = power();
        power.press_power_button();
        power.reset();
        let mut data = [0xff; 1];
        power.read(4, &mut data);
        assert_eq!(data, [0]);
    }

    #[test]
    fn the_power_button_raises_its_line_and_is_read_once() {
        let (power, _, line) = power();
        let mut data = [0xff; 1];
        power.read(4, &mut data);
        assert_eq!(data, [0]);
        power.press_power_button();
        assert_eq!(line.read().unwrap(), 1);
        power.read(4, &mut data);
        assert_eq!(data, [1]);
        power.read(4, &mut data);
        assert_eq!(data, [0]);
    }
}
