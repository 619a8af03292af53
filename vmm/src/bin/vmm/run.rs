// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `vmm run`.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, Rlimit};
use vmm::{BuildError, Config, ConsolePlace, Crash, Exit, RunError, SerialConfig, Subscriber, Vm};

use crate::cli::{RunArguments, Switch};
use crate::signals::{Signals, Watcher};
use crate::terminal::{self, Keyboard, RawTerminal, Window};
use crate::{STATUS_USAGE, logging, print_error};

/// The exit status when the host failed while the VM ran.
const STATUS_HOST: u8 = 1;
/// The exit status when the guest crashed or hung.
const STATUS_CRASH: u8 = 3;
/// The exit status when the VM had to be stopped.
const STATUS_STOPPED: u8 = 4;

pub(crate) fn run(arguments: RunArguments) -> ExitCode {
    let log_file = arguments.log_file.clone().unwrap_or_default();
    let config = config(&arguments);
    if arguments.log_file.is_some() && config.uses_file(&log_file) {
        eprintln!("vmm: error: log file {}: is a file that the machine is made of", log_file.display());
        return ExitCode::from(STATUS_USAGE);
    }
    let new_log = match logging::start(arguments.log_level, arguments.log_file.as_deref()) {
        Ok(new) => new,
        Err(error) => {
            eprintln!("vmm: error: log file {}: can't be written: {error}", log_file.display());
            return ExitCode::from(STATUS_USAGE);
        }
    };
    if arguments.notify && config.notify_socket.is_none() {
        tracing::warn!("--notify: NOTIFY_SOCKET is not set, so there is nobody to tell");
    }
    let exit = match start(&config, arguments.grace) {
        Ok(exit) => exit,
        Err(Failure::Build(error)) => {
            if new_log {
                logging::remove_if_empty(&log_file);
            }
            print_error(&error);
            return ExitCode::from(STATUS_USAGE);
        }
        Err(Failure::Host(error)) => {
            print_error(error.as_ref());
            return ExitCode::from(STATUS_HOST);
        }
    };
    match &exit {
        Exit::PowerOff | Exit::Reset => ExitCode::SUCCESS,
        Exit::Crashed(report) => {
            print_error(&End(&exit));
            if matches!(report.crash, Crash::InternalError { .. }) && !vmm::doctor::has_hardware_virtualization() {
                eprintln!("vmm: this host's KVM has no VMX or SVM under it, so that is expected: see 'vmm doctor'");
            }
            ExitCode::from(STATUS_CRASH)
        }
        Exit::Watchdog => {
            print_error(&End(&exit));
            ExitCode::from(STATUS_CRASH)
        }
        _ => {
            eprintln!("vmm: {exit}");
            ExitCode::from(STATUS_STOPPED)
        }
    }
}

/// Why there is no end of the guest to report.
enum Failure {
    Build(BuildError),
    Host(Box<dyn std::error::Error>),
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        Self::Build(error)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        Self::Host(error.into())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Host(error.into())
    }
}

fn config(arguments: &RunArguments) -> Config {
    let RunArguments {
        kernel,
        initrd,
        cmdline,
        pvh,
        rootfs,
        disk,
        net,
        vsock,
        rng,
        no_rng,
        balloon,
        cpus,
        memory,
        serial,
        console,
        name,
        transport,
        ..
    } = arguments.clone();
    let RunArguments { machine_id, oem_string, credential, pvpanic, on_reboot, on_crash, on_watchdog, .. } =
        arguments.clone();
    let notify_socket = arguments.notify.then(|| std::env::var_os("NOTIFY_SOCKET").map(PathBuf::from)).flatten();
    // One of the two has standard input and output.
    let console_is_stdio = console.iter().any(|port| port.place == ConsolePlace::Stdio);
    let serial = serial.unwrap_or(if console_is_stdio { SerialConfig::Null } else { SerialConfig::Stdio });
    Config {
        name,
        notify_socket,
        pvh,
        initrd,
        cmdline,
        rootfs,
        disks: disk,
        nets: net,
        vsock,
        rng: (!no_rng).then(|| rng.unwrap_or_default()),
        balloon,
        consoles: console,
        cpus,
        memory,
        serial,
        transport,
        machine_id,
        oem_strings: oem_string,
        credentials: credential,
        pvpanic: pvpanic == Switch::On,
        on_reboot,
        on_crash,
        on_watchdog,
        watchdog: arguments.watchdog,
        ..Config::new(kernel)
    }
}

/// Every queue of every disk takes a handful of descriptors, and the limit that most processes start with was made for
/// programs that call select(2), which nothing here does.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::debug!("the limit on open files stays at {:?}: {error}", limit.current);
    }
}

fn start(config: &Config, grace: Duration) -> Result<Exit, Failure> {
    raise_descriptor_limit();
    let signals = Signals::catch()?;
    let port_on_stdio = config.consoles.iter().position(|port| port.place == ConsolePlace::Stdio);
    let has_stdio = config.serial == SerialConfig::Stdio || port_on_stdio.is_some();
    let interactive = has_stdio && io::stdin().is_terminal();
    let (console, guest) =
        if interactive { terminal::console().map(|(c, g)| (Some(c), Some(g)))? } else { (None, None) };
    let vm = Vm::build(config, console)?;
    if !vmm::doctor::has_hardware_virtualization() {
        tracing::warn!(
            "this host's KVM has no VMX or SVM under it: an unmodified kernel is not expected to boot (see 'vmm doctor')"
        );
    }
    let control = vm.control();
    for console in control.consoles() {
        if let Some(path) = console.pty() {
            eprintln!("vmm: console {} is {}", console.name().unwrap_or("hvc0"), path.display());
        }
    }
    let port = port_on_stdio.filter(|_| interactive).and_then(|port| control.consoles().get(port).cloned());
    let window = port.map(Window::new).transpose()?;
    let keyboard = guest.map(|guest| Keyboard::new(guest, control.clone())).transpose()?;
    let mut subscribers: Vec<Subscriber> = vec![Box::new(Watcher { signals, control, grace, seen: false })];
    subscribers.extend(keyboard.map(|keyboard| Box::new(keyboard) as Subscriber));
    subscribers.extend(window.map(|window| Box::new(window) as Subscriber));
    // Raw from the last moment on that can fail before the guest runs, and until its threads have ended.
    let terminal = if interactive { RawTerminal::enter()? } else { None };
    let exit = vm.run(subscribers);
    drop(terminal);
    Ok(exit?)
}

/// An end of the guest that is printed as an error.
#[derive(Debug)]
struct End<'a>(&'a Exit);

impl std::fmt::Display for End<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for End<'_> {}
