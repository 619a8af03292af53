// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A VM: built from a configuration, then run to its end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arch::{BootProtocol, GuestRam};
use boot::{Initrd, Kernel, Request};
use devices::power::Power;
use devices::virtio::transport::Transport;
use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::Subscriber;
use crate::build::{BuildError, no};
use crate::config::{Config, SerialConfig, same_file};
use crate::console::{ConsoleControl, Consoles};
use crate::exit::{Control, DiskControl, Ending, Exit, NetControl, RunError, StopReason};
use crate::machine::{self, Disks, Machine};
use crate::net::{self, Passt};
use crate::serial::{Console, Leftovers, Place, SerialInput};
use crate::unix_socket::SocketFile;
use crate::vcpu::{self, Machinery, VcpuThread};
use crate::{kvm, storage};

/// A VM that is ready to run: everything is open and in place, and no thread exists.
pub struct Vm {
    name: String,
    vcpus: Vec<VcpuFd>,
    machinery: Arc<Machinery>,
    virtio: Vec<Arc<dyn Transport>>,
    disks: Vec<DiskControl>,
    nets: Vec<NetControl>,
    consoles: Vec<ConsoleControl>,
    power: Arc<Power>,
    serial_input: SerialInput,
    stop_output: EventFd,
    // Below what uses them: fields are dropped in this order.
    _vsock: Option<SocketFile>,
    _leftovers: (Leftovers, Vec<Leftovers>),
    _passts: Vec<Passt>,
    _vm: Arc<VmFd>,
    _ram: GuestRam,
}

impl std::fmt::Debug for Vm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vm").field("name", &self.name).field("vcpus", &self.vcpus.len()).finish_non_exhaustive()
    }
}

impl Vm {
    /// Builds the machine that `config` describes. `console` takes the place of the console that is on standard input
    /// and output: a port of `config.consoles`, or else what `config.serial` says.
    ///
    /// # Errors
    ///
    /// [`BuildError`] for whatever is wrong with the configuration, the files it names, or the host. No file has been
    /// changed then, and none is left behind.
    pub fn build(config: &Config, mut console: Option<Console>) -> Result<Self, BuildError> {
        check_sharing(config)?;
        let inherited = net::inherit(config)?;
        let mut disks = Disks::new(config)?;
        // Files first: most mistakes are there, and none of this costs anything.
        let open_kernel = storage::open_readable("kernel", &config.kernel)?;
        let mut kernel = Kernel::open(open_kernel).map_err(|error| BuildError::boot(error, config))?;
        let mut initrd = config.initrd.as_deref().map(|path| open_initrd(path, config)).transpose()?;
        let images = config
            .all_disks()
            .map(|(what, disk)| Ok((what, disk, storage::open_disk(what, disk)?)))
            .collect::<Result<Vec<_>, BuildError>>()?;
        let networks = net::open(config, inherited)?;
        let mut consoles = Consoles::open(config, &mut console)?;

        let kvm = kvm::open()?;
        let max = kvm::max_vcpus(&kvm);
        if !(1..=max).contains(&config.cpus) {
            return Err(BuildError::Cpus { asked: config.cpus, max });
        }
        let cpuid = kvm::supported_cpuid(&kvm)?;
        let address_bits = arch::cpuid::physical_address_bits(&cpuid);
        let ram = kvm::allocate(config.memory, address_bits)?;
        let vm = Arc::new(kvm::create_vm(&kvm, &ram, config.cpus)?);

        let ending = Arc::new(Ending::new().map_err(no("an eventfd"))?);
        let mut machine = Machine::new(&vm, &ram, address_bits);
        let power = machine.add_platform(&ending)?;
        for (what, disk, image) in images {
            disks.add(&mut machine, what, disk, image)?;
        }
        let default = machine::default_transport(config);
        let nets = (0..).zip(config.nets.iter().zip(networks.backends));
        let nets =
            nets.map(|(at, (net, backends))| machine::net::add(&mut machine, &config.name, at, net, backends, default));
        let nets = nets.collect::<Result<Vec<_>, _>>()?;
        let vsock = config.vsock.as_ref();
        let vsock = vsock.map(|vsock| machine::vsock::add(&mut machine, vsock, BTreeMap::new(), default));
        let vsock = vsock.transpose()?.flatten();
        let console_controls = consoles.add(&mut machine, config)?;

        let rsdp = arch::acpi::write(&ram, &machine.platform(config.cpus))
            .map_err(|error| BuildError::Table { what: "ACPI tables", problem: error.to_string() })?;
        let cmdline = config.full_cmdline();
        let request = Request {
            kernel: &mut kernel,
            initrd: initrd.as_mut(),
            cmdline: cmdline.as_bytes(),
            protocol: config.pvh.then_some(BootProtocol::Pvh),
            rsdp,
        };
        let entry = boot::load(&ram, request).map_err(|error| BuildError::boot(error, config))?;
        arch::tables::write(&ram, entry.protocol)
            .map_err(|error| BuildError::Table { what: "boot tables", problem: error.to_string() })?;
        let vcpus = (0..config.cpus)
            .map(|index| vcpu::create(&vm, &cpuid, index, config.cpus, &entry))
            .collect::<Result<Vec<_>, BuildError>>()?;

        // Last, as it may empty a file.
        let eventfd = || EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).map_err(no("an eventfd"));
        let (stop_output, drained) = (eventfd()?, eventfd()?);
        let stop = stop_output.try_clone().map_err(no("an eventfd"))?;
        let Place { input, output, mut leftovers } = Place::open(&config.serial, console, stop)?;
        let serial = machine.add_serial(drained.try_clone().map_err(no("an eventfd"))?, output)?;
        leftovers.keep_file();
        consoles.leftovers.iter_mut().for_each(Leftovers::keep_file);

        let Machine { ports, mmio, virtio, .. } = machine;
        tracing::debug!(
            name = config.name,
            protocol = ?entry.protocol,
            entry = format_args!("{:#x}", entry.address.0),
            cmdline,
            "built"
        );
        Ok(Self {
            name: config.name.clone(),
            vcpus,
            machinery: Arc::new(Machinery { ports, mmio, ending, stopping: AtomicBool::new(false) }),
            virtio: virtio.devices,
            disks: disks.controls.into_iter().map(DiskControl).collect(),
            nets,
            consoles: console_controls,
            power,
            serial_input: SerialInput::new(serial, drained, input),
            stop_output,
            _vsock: vsock,
            _leftovers: (leftovers, consoles.leftovers),
            _passts: networks.passts,
            _vm: vm,
            _ram: ram,
        })
    }

    /// A handle that ends the VM, from any thread.
    pub fn control(&self) -> Control {
        Control {
            ending: self.machinery.ending.clone(),
            power: self.power.clone(),
            disks: self.disks.clone(),
            nets: self.nets.clone(),
            consoles: self.consoles.clone(),
        }
    }

    /// Runs the VM until it ends, with its event loop on the calling thread and a thread for each vCPU and each queue
    /// that a driver uses. `subscribers` are served by the event loop too. When this returns, all threads have ended and
    /// everything is closed.
    ///
    /// # Errors
    ///
    /// [`RunError`] when the host, not the guest, is at fault.
    pub fn run(self, subscribers: Vec<Subscriber>) -> Result<Exit, RunError> {
        let Self {
            name,
            vcpus,
            machinery,
            virtio,
            serial_input,
            stop_output,
            power: _,
            disks: _,
            nets: _,
            consoles: _,
            _vsock,
            _leftovers,
            _passts,
            _vm,
            _ram,
        } = self;
        let mut running = Running { threads: Vec::with_capacity(vcpus.len()), machinery, stop_output, virtio };
        let started = (0..).zip(vcpus).try_for_each(|(index, vcpu)| {
            running.threads.push(vcpu::start(index, vcpu, running.machinery.clone())?);
            Ok(())
        });
        let watched = started.and_then(|()| watch(&running.machinery.ending, serial_input, subscribers));
        let joined = running.stop();
        // A guest that has ended counts for more than what went wrong on the way out.
        let end = running.machinery.ending.take();
        watched?;
        let exit = end.unwrap_or(Ok(Exit::Stopped(StopReason::Asked)))?;
        joined?;
        tracing::info!(name, "{exit}");
        Ok(exit)
    }
}

/// The threads of a VM. They end with this value at the latest: guest RAM may go after it, and not before.
struct Running {
    threads: Vec<VcpuThread>,
    machinery: Arc<Machinery>,
    stop_output: EventFd,
    virtio: Vec<Arc<dyn Transport>>,
}

impl Running {
    /// Ends all threads and waits for them.
    fn stop(&mut self) -> Result<(), RunError> {
        self.machinery.stopping.store(true, Ordering::Release);
        // Fails only when the counter is full, which wakes everybody as well.
        let _ = self.stop_output.write(1);
        for thread in &self.threads {
            thread.kick();
        }
        // The first error counts, but every thread is waited for.
        let joined = self.threads.drain(..).map(VcpuThread::join).fold(Ok(()), Result::and);
        for device in &self.virtio {
            device.stop();
        }
        joined
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing is left to do unless a subscriber has panicked, and then nobody asks how this went.
        let _ = self.stop();
    }
}

/// The event loop: serves its subscribers until the VM has ended.
fn watch(ending: &Arc<Ending>, serial_input: SerialInput, subscribers: Vec<Subscriber>) -> Result<(), RunError> {
    let mut manager: EventManager<Subscriber> = EventManager::new().map_err(RunError::EventLoop)?;
    manager.add_subscriber(Box::new(EndingWatcher(ending.clone())));
    manager.add_subscriber(Box::new(serial_input));
    for subscriber in subscribers {
        manager.add_subscriber(subscriber);
    }
    while !ending.has_ended() {
        let timeout = match ending.time_left() {
            None => -1,
            Some(Duration::ZERO) => {
                ending.end(Ok(Exit::Stopped(StopReason::GraceExpired)));
                break;
            }
            // Rounded up: a wait of less than a millisecond is no busy loop.
            Some(left) => i32::try_from(left.as_millis().saturating_add(1)).unwrap_or(i32::MAX),
        };
        match manager.run_with_timeout(timeout) {
            Ok(_) => (),
            Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EINTR => (),
            Err(error) => return Err(RunError::EventLoop(error)),
        }
    }
    Ok(())
}

/// Wakes the event loop when the VM has ended or is to end at another time.
struct EndingWatcher(Arc<Ending>);

impl MutEventSubscriber for EndingWatcher {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new(self.0.changed(), EventSet::IN)) {
            self.0.end(Err(RunError::EventLoop(error)));
        }
    }

    fn process(&mut self, _: Events, _: &mut EventOps<'_>) {
        // Only a counter that is zero fails, and then there is nothing to forget.
        let _ = self.0.changed().read();
    }
}

/// Refuses what would be written from two sides.
fn check_sharing(config: &Config) -> Result<(), BuildError> {
    if let SerialConfig::File(path) = &config.serial
        && config.uses_file(path)
    {
        return Err(storage::problem(
            "serial file",
            path,
            "is a file that the machine is made of, which would be lost",
        ));
    }
    let disks: Vec<_> = config.all_disks().collect();
    for (at, (what, disk)) in disks.iter().enumerate() {
        let before = disks.iter().take(at).map(|(_, disk)| disk);
        if before.into_iter().any(|other| !(disk.readonly && other.readonly) && same_file(&other.path, &disk.path)) {
            return Err(storage::problem(what, &disk.path, "is there twice, and not read-only in both places"));
        }
    }
    Ok(())
}

fn open_initrd(path: &Path, config: &Config) -> Result<Initrd, BuildError> {
    let file = storage::open_readable("initrd", path)?;
    Initrd::open(file).map_err(|error| BuildError::boot(error, config))
}

#[cfg(test)]
#[path = "vm_tests.rs"]
mod tests;
