// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A VM: built from a configuration, then run to its end.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arch::GuestRam;
use devices::power::Power;
use devices::virtio::transport::Transport;
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::Subscriber;
use crate::build::{BuildError, no};
use crate::config::{Config, SerialConfig, same_file};
use crate::console::{ConsoleControl, Consoles};
use crate::exit::{BalloonControl, Control, DiskControl, Ending, Exit, NetControl, RunError};
use crate::loader::Loader;
use crate::machine::generation::{Generations, Owner};
use crate::machine::identity::Told;
use crate::machine::{self, Disks, Machine};
use crate::net::{self, Passt};
use crate::notify::Notifier;
use crate::reset::PowerOn;
use crate::running::{EventLoop, Policy, Running};
use crate::serial::{Console, Leftovers, Place, SerialInput};
use crate::unix_socket::SocketFile;
use crate::vcpu::{self, Machinery};
use crate::{kvm, storage};

/// A VM that is ready to run: everything is open and in place, and no thread exists.
pub struct Vm {
    name: String,
    vcpus: Vec<VcpuFd>,
    machinery: Arc<Machinery>,
    virtio: Vec<Arc<dyn Transport>>,
    disks: Vec<DiskControl>,
    nets: Vec<NetControl>,
    balloon: Option<BalloonControl>,
    consoles: Vec<ConsoleControl>,
    power: Arc<Power>,
    policy: Policy,
    power_on: Option<PowerOn>,
    generations: Owner,
    serial_input: SerialInput,
    stop_output: EventFd,
    notifier: Option<Notifier>,
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
        let mut loader = Loader::open(config)?;
        let images = config
            .all_disks()
            .map(|(what, disk)| Ok((what, disk, storage::open_disk(what, disk)?)))
            .collect::<Result<Vec<_>, BuildError>>()?;
        let mut told = Told::new(config)?;
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
        if config.pvpanic {
            machine.add_pvpanic(&ending)?;
        }
        if config.watchdog {
            machine.add_watchdog(&ending)?;
        }
        for (what, disk, image) in images {
            disks.add(&mut machine, what, disk, image)?;
        }
        let default = machine::default_transport(config);
        let nets = (0..).zip(config.nets.iter().zip(networks.backends));
        let nets =
            nets.map(|(at, (net, backends))| machine::net::add(&mut machine, &config.name, at, net, backends, default));
        let nets = nets.collect::<Result<Vec<_>, _>>()?;
        let vsock = machine::vsock::add(&mut machine, config, &mut told)?;
        config.rng.iter().try_for_each(|rng| machine::rng::add(&mut machine, rng, default))?;
        let balloon = config.balloon.as_ref();
        let balloon = balloon.map(|balloon| machine::balloon::add(&mut machine, balloon, config.memory, default));
        let balloon = balloon.transpose()?;
        let console_controls = consoles.add(&mut machine, config)?;

        let platform = machine.platform(config.cpus);
        let (entry, cmdline) = (loader.load(&ram, &platform, &told)?, loader.cmdline());
        let generations = Generations::new(&ram, &power)?;
        generations.write()?;
        let vcpus = (0..config.cpus)
            .map(|index| vcpu::create(&vm, &cpuid, index, config.cpus, &entry))
            .collect::<Result<Vec<_>, BuildError>>()?;

        let Config { on_reboot: reboot, on_crash: crash, on_watchdog: watchdog, .. } = *config;
        let policy = Policy { reboot, crash, watchdog };
        let power_on = policy
            .resets()
            .then(|| PowerOn::of(&kvm, &vm, &ram, &vcpus, (loader, platform, told, generations.clone())));
        let power_on = power_on.transpose()?;

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
            balloon,
            consoles: console_controls,
            power,
            policy,
            power_on,
            generations: Owner(generations),
            serial_input: SerialInput::new(serial, drained, input),
            stop_output,
            notifier: vsock.notifier,
            _vsock: vsock.file,
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
            generations: self.generations.0.clone(),
            balloon: self.balloon.clone(),
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
            policy,
            power_on,
            disks: _,
            nets: _,
            notifier,
            generations: _generations,
            balloon: _,
            consoles: _,
            _vsock,
            _leftovers,
            _passts,
            _vm,
            _ram,
        } = self;
        let threads = Vec::with_capacity(vcpus.len());
        let mut running = Running { vcpus, threads, machinery, stop_output, virtio, policy, power_on };
        let mut all: Vec<Subscriber> = vec![Box::new(serial_input)];
        all.extend(notifier.map(|notifier| Box::new(notifier) as Subscriber));
        all.extend(subscribers);
        let mut event_loop = EventLoop::new(&running.machinery.ending, all)?;
        let exit = running.run(&mut event_loop)?;
        // Before whoever waits for the end is told of it.
        drop(running);
        tracing::info!(name, "{exit}");
        Ok(exit)
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

#[cfg(test)]
#[path = "vm_tests.rs"]
mod tests;
