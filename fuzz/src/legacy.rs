// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Any sequence of accesses to the port bus, with all legacy devices on it.

use std::io::sink;
use std::sync::Arc;

use devices::bus::Bus;
use devices::i8042::I8042;
use devices::interrupt::InterruptLine;
use devices::power::{Power, PowerRegisters, PowerRequest, PowerSink};
use devices::pvpanic::PvPanic;
use devices::rtc::Rtc;
use devices::serial::SerialPort;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

#[derive(Debug)]
struct Nobody;

impl InterruptLine for Nobody {
    fn trigger(&self) {}
}

impl PowerSink for Nobody {
    fn request(&self, _: PowerRequest) {}
}

const POWER: PowerRegisters = PowerRegisters {
    sleep_control: 0,
    sleep_status: 1,
    reset: 2,
    reset_value: 1,
    events: 4,
    sleep_type_s5: 5,
    power_button: 1,
};

/// Four bytes an access: what and how wide, where, and a value to write.
///
/// # Panics
///
/// When a port takes more input than it said it had room for, or an access that nobody answers reads anything but ones.
pub fn run(data: &[u8]) {
    let eventfd = || EventFd::new(EFD_NONBLOCK).expect("an eventfd");
    let serial = Arc::new(SerialPort::new(Box::new(Nobody), eventfd(), Box::new(sink())));
    let power = Arc::new(Power::new(POWER, Arc::new(Nobody), Box::new(Nobody)));
    let mut ports = Bus::new();
    ports.insert(0x3f8, 8, serial.clone()).expect("room for the serial port");
    ports.insert(0x60, 5, Arc::new(I8042::new(Arc::new(Nobody)))).expect("room for the i8042");
    ports.insert(0x70, 2, Arc::new(Rtc::new())).expect("room for the clock");
    ports.insert(0x600, 8, power.clone()).expect("room for power management");

    ports.insert(0x505, 1, Arc::new(PvPanic::new(Arc::new(Nobody)))).expect("room for pvpanic");

    for access in data.chunks_exact(4) {
        let (what, value) = (access[0], access[3]);
        let offset = u64::from(access[2] & 15);
        let port = [0x3f8, 0x60, 0x70, 0x600, 0x3f8, 0x60, 0x70, 0x500][usize::from(access[1] & 7)] + offset;
        let width = usize::from(what >> 4);
        match what & 3 {
            0 => ports.write(port, &vec![value; width]),
            1 => {
                let before = ports.unclaimed();
                let mut read = vec![0; width];
                ports.read(port, &mut read);
                assert!(ports.unclaimed() == before || read.iter().all(|byte| *byte == 0xff));
            }
            2 => {
                let room = serial.room();
                assert!(serial.receive(&vec![value; width * 8]) <= room);
            }
            _ => power.press_power_button(),
        }
    }
}
