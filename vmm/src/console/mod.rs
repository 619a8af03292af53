// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The host's side of the virtio console: opens what the configuration names, and says how large terminals are.

mod pty;
mod streams;

use std::path::{Path, PathBuf};

use devices::virtio::console::{self, ConsoleBackend, ConsolePort};

use self::pty::Pty;
pub use self::streams::output_that_never_waits;
use crate::build::{BuildError, no};
use crate::config::{Config, ConsoleConfig, ConsolePlace, SIZE_SUFFIX, SerialConfig, same_file};
use crate::machine::Machine;
use crate::serial::{self, Console, Leftovers};
use crate::{machine, storage, unix_socket};

/// What a host can do with a port of the virtio console while its VM runs, from any thread.
#[derive(Clone, Debug)]
pub struct ConsoleControl {
    index: usize,
    name: Option<String>,
    pty: Option<PathBuf>,
    control: console::ConsoleControl,
}

impl ConsoleControl {
    /// What the guest calls the port, if it has a name.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The pseudo-terminal that was made for it.
    pub fn pty(&self) -> Option<&Path> {
        self.pty.as_deref()
    }

    /// Tells the guest how large the terminal is, in characters.
    pub fn resize(&self, columns: u16, rows: u16) {
        self.control.resize(self.index, columns, rows);
    }
}

/// The ports of a machine, which are open.
#[derive(Debug, Default)]
pub(crate) struct Consoles {
    ports: Vec<ConsolePort>,
    names: Vec<(Option<String>, Option<PathBuf>)>,
    /// What is removed again when this is dropped.
    pub(crate) leftovers: Vec<Leftovers>,
}

impl Consoles {
    /// Opens what all ports are connected to. `console` takes the place of standard input and output; it is left where it is if
    /// no port is there.
    pub(crate) fn open(config: &Config, console: &mut Option<Console>) -> Result<Self, BuildError> {
        let serial_is_stdio = config.serial == SerialConfig::Stdio;
        ConsoleConfig::check_all(&config.consoles, serial_is_stdio).map_err(problem)?;
        check_sharing(config)?;
        let mut this = Self::default();
        for port in &config.consoles {
            this.open_port(port, console)?;
        }
        Ok(this)
    }

    fn open_port(&mut self, port: &ConsoleConfig, console: &mut Option<Console>) -> Result<(), BuildError> {
        let mut pty_path = None;
        let backend = match &port.place {
            ConsolePlace::Stdio => {
                let (input, output) = match console.take() {
                    Some(Console { input, output }) => (input, output),
                    None => streams::stdio().map_err(no("copies of standard input and output"))?,
                };
                ConsoleBackend::Streams { input, output: Some(output) }
            }
            ConsolePlace::File(path) => {
                let (file, created) = serial::create("console file", path, false)?;
                let before = file.try_clone().map_err(no("a copy of a descriptor"))?;
                self.leftovers.push(Leftovers::file(path, created, Some(before)));
                ConsoleBackend::Streams { input: None, output: Some(Box::new(file)) }
            }
            ConsolePlace::Socket(path) => {
                let (listener, file) = unix_socket::listen("console socket", path)?;
                self.leftovers.push(Leftovers::socket(file));
                let mut size_path = path.clone().into_os_string();
                size_path.push(SIZE_SUFFIX);
                let (sizes, file) = unix_socket::datagrams("console socket", Path::new(&size_path))?;
                self.leftovers.push(Leftovers::socket(file));
                ConsoleBackend::Socket { listener, sizes: Some(sizes) }
            }
            ConsolePlace::Pty => {
                let pty = Pty::open().map_err(no("a pseudo-terminal"))?;
                pty_path = Some(pty.path.clone());
                let input = pty.try_clone().map_err(no("a copy of a descriptor"))?;
                ConsoleBackend::Streams { input: Some(Box::new(input)), output: Some(Box::new(pty)) }
            }
        };
        let log = match &port.log {
            Some(path) => {
                let (file, created) = serial::create("console log", path, true)?;
                self.leftovers.push(Leftovers::file(path, created, None));
                Some(file)
            }
            None => None,
        };
        self.names.push((port.name.clone(), pty_path));
        self.ports.push(ConsolePort { name: port.name.clone(), backend, log });
        Ok(())
    }

    /// Adds the device, if there are ports; gives what a host can do with them.
    pub(crate) fn add(
        &mut self,
        machine: &mut Machine<'_>,
        config: &Config,
    ) -> Result<Vec<ConsoleControl>, BuildError> {
        if self.ports.is_empty() {
            return Ok(Vec::new());
        }
        let ports = std::mem::take(&mut self.ports);
        let device = console::Console::new("console", ports).map_err(|error| problem(error.to_string()))?;
        let control = device.control();
        machine.add_virtio(Box::new(device), machine::default_transport(config))?;
        let names = std::mem::take(&mut self.names).into_iter().enumerate();
        Ok(names.map(|(index, (name, pty))| ConsoleControl { index, name, pty, control: control.clone() }).collect())
    }
}

fn problem(problem: String) -> BuildError {
    BuildError::Console { problem }
}

/// Refuses what would be written from two sides.
fn check_sharing(config: &Config) -> Result<(), BuildError> {
    let mut seen: Vec<&Path> = Vec::new();
    if let SerialConfig::File(path) = &config.serial {
        seen.push(path);
    }
    for port in &config.consoles {
        let file = if let ConsolePlace::File(path) = &port.place { Some(("console file", path)) } else { None };
        let log = port.log.as_ref().map(|path| ("console log", path));
        for (what, path) in file.into_iter().chain(log) {
            if config.uses_file(path) {
                return Err(storage::problem(what, path, "is a file that the machine is made of, which would be lost"));
            }
            if seen.iter().any(|other| *other == path.as_path() || same_file(other, path)) {
                return Err(storage::problem(what, path, "gets the output of something else already"));
            }
            seen.push(path);
        }
    }
    Ok(())
}
