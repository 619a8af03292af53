// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The devices of a machine: which there are, where they are, and what tells the guest of them.

use std::fs::File;
use std::sync::Arc;

use arch::acpi::{MmioDevice, Platform};
use arch::{GuestRam, layout};
use devices::bus::{Bus, BusError};
use devices::i8042::I8042;
use devices::power::{Power, PowerRegisters};
use devices::rtc::Rtc;
use devices::serial::SerialPort;
use devices::virtio::VirtioDevice;
use devices::virtio::block::{Block, BlockOptions};
use devices::virtio::transport::Transport;
use devices::virtio::transport::mmio::{MmioTransport, QUEUE_NOTIFY};
use kvm_ioctls::{IoEventAddress, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::build::{BuildError, no, refused};
use crate::config::Disk;
use crate::exit::Ending;
use crate::storage::problem;

/// What the ACPI tables say of power management.
const POWER: PowerRegisters = PowerRegisters {
    sleep_control: layout::PM_SLEEP_CONTROL,
    sleep_status: layout::PM_SLEEP_STATUS,
    reset: layout::PM_RESET,
    reset_value: layout::PM_RESET_VALUE,
    events: layout::PM_EVENTS,
    sleep_type_s5: layout::PM_SLEEP_TYPE_S5,
    power_button: layout::PM_EVENT_POWER_BUTTON,
};

/// The devices of a VM, while they are put together.
pub(crate) struct Machine<'a> {
    vm: &'a VmFd,
    ram: &'a GuestRam,
    pub(crate) ports: Bus,
    pub(crate) mmio: Bus,
    pub(crate) virtio: Vec<Arc<dyn Transport>>,
    windows: Vec<MmioDevice>,
}

impl<'a> Machine<'a> {
    pub(crate) fn new(vm: &'a VmFd, ram: &'a GuestRam) -> Self {
        Self { vm, ram, ports: Bus::new(), mmio: Bus::new(), virtio: Vec::new(), windows: Vec::new() }
    }

    /// Power management, the reset line of the i8042, and the clock.
    pub(crate) fn add_platform(&mut self, ending: &Arc<Ending>) -> Result<Arc<Power>, BuildError> {
        let line = self.line(layout::GED_GSI)?;
        let power = Arc::new(Power::new(POWER, ending.clone(), Box::new(line)));
        let put = |ports: &mut Bus, port: u16, size: u16, device| ports.insert(port.into(), size.into(), device);
        put(&mut self.ports, layout::PM_PORT, layout::PM_PORT_SIZE, power.clone()).map_err(bus)?;
        let i8042 = Arc::new(I8042::new(ending.clone()));
        put(&mut self.ports, layout::I8042_PORT, layout::I8042_PORT_SIZE, i8042).map_err(bus)?;
        put(&mut self.ports, layout::RTC_PORT, layout::RTC_PORT_SIZE, Arc::new(Rtc::new())).map_err(bus)?;
        Ok(power)
    }

    /// The serial port. `drained` is signalled when the guest has read all of its input.
    pub(crate) fn add_serial(
        &mut self,
        drained: EventFd,
        output: Box<dyn std::io::Write + Send>,
    ) -> Result<Arc<SerialPort>, BuildError> {
        let line = self.line(layout::SERIAL_GSI)?;
        let serial = Arc::new(SerialPort::new(Box::new(line), drained, output));
        self.ports.insert(layout::SERIAL_PORT.into(), layout::SERIAL_PORT_SIZE.into(), serial.clone()).map_err(bus)?;
        Ok(serial)
    }

    /// A disk on an image that is open: `/dev/vda` is the first one.
    pub(crate) fn add_disk(&mut self, what: &'static str, disk: &Disk, image: File) -> Result<(), BuildError> {
        let name = disk_name(self.virtio.len());
        let mut options = BlockOptions::default();
        options.read_only = disk.readonly;
        let block = Block::new(name, image, options).map_err(|error| problem(what, &disk.path, error.to_string()))?;
        self.add_virtio(Box::new(block))
    }

    fn add_virtio(&mut self, device: Box<dyn VirtioDevice>) -> Result<(), BuildError> {
        let index = self.virtio.len() as u64;
        let base = layout::VIRTIO_MMIO_START + index * layout::VIRTIO_MMIO_SIZE;
        if base >= layout::VIRTIO_MMIO_END {
            let max = (layout::VIRTIO_MMIO_END - layout::VIRTIO_MMIO_START) / layout::VIRTIO_MMIO_SIZE;
            return Err(BuildError::Disks { asked: self.virtio.len() + 1, max: max as usize });
        }
        let lines = u64::from(layout::IOAPIC_PINS - layout::VIRTIO_GSI_START);
        let gsi = layout::VIRTIO_GSI_START + (index % lines) as u32;
        let line = self.line(gsi)?;
        let transport = MmioTransport::new(device, self.ram.clone(), Box::new(line)).map_err(no("a doorbell"))?;
        for (queue, doorbell) in (0u32..).zip(transport.doorbells().map_err(no("a doorbell"))?) {
            self.vm
                .register_ioevent(&doorbell, &IoEventAddress::Mmio(base + QUEUE_NOTIFY), queue)
                .map_err(refused("listen to a doorbell"))?;
        }
        let transport = Arc::new(transport);
        self.mmio.insert(base, layout::VIRTIO_MMIO_SIZE, transport.clone()).map_err(bus)?;
        self.virtio.push(transport);
        self.windows.push(MmioDevice { base, size: layout::VIRTIO_MMIO_SIZE, gsi });
        Ok(())
    }

    /// What the ACPI tables have to say.
    pub(crate) fn platform(&self, vcpus: u32) -> Platform {
        Platform { vcpus, serial: true, rtc: true, virtio_mmio: self.windows.clone(), pci: None }
    }

    /// An eventfd that raises a line of the interrupt controller.
    fn line(&self, gsi: u32) -> Result<EventFd, BuildError> {
        let line = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).map_err(no("an interrupt line"))?;
        self.vm.register_irqfd(&line, gsi).map_err(refused("connect an interrupt line"))?;
        Ok(line)
    }
}

/// How Linux names virtio disks: vda to vdz, vdaa and so on.
fn disk_name(index: usize) -> String {
    let mut letters = Vec::new();
    let mut rest = index + 1;
    while rest > 0 {
        letters.push(b'a' + ((rest - 1) % 26) as u8);
        rest = (rest - 1) / 26;
    }
    letters.extend(*b"dv");
    letters.iter().rev().map(|letter| char::from(*letter)).collect()
}

fn bus(error: BusError) -> BuildError {
    BuildError::Table { what: "address map", problem: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_as_linux_does() {
        let names: Vec<_> = [0, 1, 25, 26, 27, 51, 52, 701, 702].into_iter().map(disk_name).collect();
        assert_eq!(names, ["vda", "vdb", "vdz", "vdaa", "vdab", "vdaz", "vdba", "vdzz", "vdaaa"]);
    }
}
